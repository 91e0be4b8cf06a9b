"""The looks of the page: a calm theme in light and dark, its style sheet and its script."""

from functools import cache
from importlib import resources

import gradio as gr
from gradio.themes.utils import colors, sizes

SANS = (
    "Inter",
    "ui-sans-serif",
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
INDIGO = colors.Color(
    name="codi",
    c50="#f1f2fe",
    c100="#e4e6fd",
    c200="#cdd1fb",
    c300="#aab0f7",
    c400="#828af1",
    c500="#5f66e8",
    c600="#4a4fd6",
    c700="#3d40b4",
    c800="#343791",
    c900="#2d3074",
    c950="#1b1c46",
)


def theme() -> gr.themes.Base:
    """Return the theme; its fonts are those of the machine, so that nothing is fetched from elsewhere."""
    base = gr.themes.Base(
        primary_hue=INDIGO,
        secondary_hue=INDIGO,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
        font=SANS,
        font_mono=MONO,
    )
    return base.set(
        body_background_fill="#f6f7fb",
        body_background_fill_dark="#0e1117",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#171b24",
        background_fill_secondary="#f6f7fb",
        background_fill_secondary_dark="#12161e",
        body_text_color="#1d2433",
        body_text_color_dark="#e7eaf1",
        body_text_color_subdued="#5a6478",
        body_text_color_subdued_dark="#9aa5b8",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="#475068",
        block_label_text_color_dark="#b6bfd0",
        block_title_text_color="#2b3347",
        block_title_text_color_dark="#d5dbe7",
        block_title_text_weight="600",
        block_info_text_color="#5a6478",
        block_info_text_color_dark="#9aa5b8",
        border_color_primary="#e2e6ef",
        border_color_primary_dark="#2a3140",
        input_background_fill="#ffffff",
        input_background_fill_dark="#10141c",
        input_border_color="#d3d9e6",
        input_border_color_dark="#323a4b",
        input_border_color_focus="#5f66e8",
        input_border_color_focus_dark="#828af1",
        input_placeholder_color="#7b859a",
        input_placeholder_color_dark="#76819a",
        input_border_width="1px",
        input_radius="11px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px rgb(95 102 232 / 0.18)",
        button_primary_background_fill="#4a4fd6",
        button_primary_background_fill_hover="#3d40b4",
        button_primary_background_fill_dark="#5f66e8",
        button_primary_background_fill_hover_dark="#6f76ee",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#f1f2fe",
        button_secondary_background_fill_dark="#1d2330",
        button_secondary_background_fill_hover_dark="#262e3e",
        button_secondary_border_color="#d3d9e6",
        button_secondary_border_color_dark="#323a4b",
        button_border_width="1px",
        button_secondary_text_color="#2b3347",
        button_secondary_text_color_dark="#d5dbe7",
        checkbox_label_background_fill="#ffffff",
        checkbox_label_background_fill_dark="#1d2330",
        checkbox_label_background_fill_selected="#f1f2fe",
        checkbox_label_background_fill_selected_dark="#23273f",
        checkbox_label_border_color="#d3d9e6",
        checkbox_label_border_color_dark="#323a4b",
        checkbox_label_border_color_selected="#5f66e8",
        checkbox_label_border_color_selected_dark="#828af1",
        checkbox_label_border_width="1px",
        checkbox_label_padding="8px 12px",
        checkbox_background_color_selected="#4a4fd6",
        checkbox_background_color_selected_dark="#5f66e8",
        slider_color="#5f66e8",
        slider_color_dark="#828af1",
    )


@cache
def asset(name: str) -> str:
    """Return the text of a file beside this module."""
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def css() -> str:
    """Return the style sheet."""
    return asset("page.css")


def head(language: str) -> str:
    """Return what stands in the head of the page: its language, and the script of its players and pickers.

    Gradio's own few words go by the language of the browser, which the script sets to that of the page.
    """
    begin = f"<script>window.codiLanguage = '{language}';</script>"
    viewport = '<meta name="color-scheme" content="light dark">'
    return f"{viewport}{begin}<script>{asset('page.js')}</script>"

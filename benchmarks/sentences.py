"""Make captions of real words, and count how many of them a text autoencoder gives back exactly.

    npm pack emojibase-data@17.0.0 && tar xf emojibase-data-17.0.0.tgz     # MIT: names and tags of emoji
    python -m benchmarks.sentences captions package -o captions
    python -m training.main --config my.yaml           # of docs/training.md, "Words and pieces of words"
    python -m benchmarks.sentences exact my/model captions/test.jsonl captions/unseen.jsonl

`captions` writes manifests of rows with a caption alone, in twelve languages and several scripts:
`train.jsonl`; `test.jsonl`, other sentences about the same emoji; `unseen.jsonl`, about emoji that these two
never name. `exact` prints, for sentences of up to so many words, the share that comes back as it was, to the
letter: from the latent itself, and from one with Gaussian noise, in standard deviations of the latents.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from codi.modalities import component_class
from codi.models.autoencoders import TextAutoencoder
from codi.rows import parse_json
from training.stages.common import load_part

# half of the captions are English
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "ru", "uk", "ja")
PATTERNS = {
    "en": (
        "a photo of {a} and {b}",
        "{A} in the {tag}",
        "a drawing of {a} with {b}",
        "the {tag} {a}, seen from afar",
        "{A}! Isn't it {tag}?",
        "{a} next to {b}",
    ),
    "other": ("{A}", "{a}, {tag}", "{a} + {b}", "{A} ({tag})", "{emoji} {a} – {b}"),
}
UNSEEN = 0.05  # the share of emoji that only `unseen.jsonl` names
COUNTS = {"train": 60_000, "test": 1_000, "unseen": 500}
LENGTHS = (4, 8, 12)
NOISES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)
BATCH = 100


def entries(package: Path) -> dict[str, list[dict]]:
    """Return the emoji of every language, in one order: those that all languages name."""
    tables = {}
    for language in LANGUAGES:
        table = json.loads((package / language / "data.json").read_text(encoding="utf-8"))
        tables[language] = {entry["hexcode"]: entry for entry in table if entry.get("tags")}
    shared = [code for code in tables["en"] if all(code in table for table in tables.values())]
    return {language: [table[code] for code in shared] for language, table in tables.items()}


def sentences(
    emoji: dict[str, list[dict]], places: np.ndarray, generator: np.random.Generator
) -> Iterator[str]:
    """Yield random sentences about some of the emoji, without end.

    Args:
        emoji: the emoji of every language.
        places: which of them may be named.
        generator: the source of all draws.
    """
    while True:
        language = LANGUAGES[0] if generator.random() < 0.5 else str(generator.choice(LANGUAGES[1:]))
        patterns = PATTERNS.get(language, ()) + PATTERNS["other"]
        first, second = (emoji[language][place] for place in generator.choice(places, 2))
        name = first["label"]
        yield str(generator.choice(patterns)).format(
            a=name,
            A=name[:1].upper() + name[1:],
            b=second["label"],
            tag=generator.choice(first["tags"]),
            emoji=first["emoji"],
        )


def write_captions(package: Path, out: Path, seed: int = 0) -> None:
    """Write the three manifests; no sentence is in two of them, or twice in one."""
    emoji = entries(package)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(emoji["en"]))
    kept = round(UNSEEN * len(order))
    known: set[str] = set()
    out.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        lines = []
        for sentence in sentences(emoji, order[:kept] if split == "unseen" else order[kept:], generator):
            if sentence not in known:
                known.add(sentence)
                lines.append(json.dumps({"caption": sentence}, ensure_ascii=False) + "\n")
            if len(lines) == count:
                break
        (out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    words = {word for sentence in known for word in sentence.lower().split()}
    print(f"{out}: {', '.join(f'{count} {split}' for split, count in COUNTS.items())}, {len(words)} words")


@torch.no_grad()
def exact(part: TextAutoencoder, captions: list[str], noise: float) -> list[bool]:
    """Return which of the captions come back to the letter, with noise on their latents.

    Args:
        part: the autoencoder.
        captions: the sentences.
        noise: its standard deviation; latents are normalised.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for start in range(0, len(captions), BATCH):
        rows = captions[start : start + BATCH]
        latent = part.encode(rows)
        drawn = torch.randn(latent.shape, generator=generator)
        found += [said == row for said, row in zip(part.decode(latent + noise * drawn), rows)]
    return found


def report(model: Path, manifests: list[Path], most: int) -> None:
    """Print the shares of exact sentences of every manifest, by their lengths and by noise."""
    part = load_part(component_class("text_autoencoder"), model / "text_autoencoder", "train it first")
    print("sentences       words  count  " + "  ".join(f"noise {noise:.1f}" for noise in NOISES))
    for path in manifests:
        lines = path.read_text(encoding="utf-8").splitlines()
        captions = [parse_json(line)["caption"] for line in lines[:most]]
        lengths = np.array([len(caption.split()) for caption in captions])
        results = np.array([exact(part, captions, noise) for noise in NOISES])
        for longest in LENGTHS:
            rows = lengths <= longest
            shares = "      ".join(f"{share:5.3f}" for share in results[:, rows].mean(1))
            print(f"{path.stem:<15} <= {longest:<2}  {rows.sum():5}  {shares}")


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("captions", help="write manifests of captions")
    make.add_argument("package", type=Path, help="the unpacked folder of emojibase-data")
    make.add_argument("-o", "--out", type=Path, required=True, help="the folder of the manifests")
    count = commands.add_parser("exact", help="count sentences that come back exactly")
    count.add_argument("model", type=Path, help="a model folder with a text autoencoder")
    count.add_argument("manifests", type=Path, nargs="+", help="manifests whose rows have a caption")
    count.add_argument("--most", type=int, default=1000, help="so many captions of each")
    args = parser.parse_args()
    if args.command == "captions":
        write_captions(args.package, args.out)
    else:
        report(args.model, args.manifests, args.most)
    return 0


if __name__ == "__main__":
    sys.exit(main())

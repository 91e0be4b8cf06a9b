"""The page in a real browser, on the real queue and the embedded model; one server, few steps."""

import asyncio
import json
import re
import shutil
import threading
import time
import wave
from urllib.parse import urlsplit

import pytest

from codi.serve import page

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'codi[serve]'")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
uvicorn = pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'codi[serve]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
WAIT = 120_000  # milliseconds: on a busy machine


class Server:
    """A queue with HTTP and the page before it, which can be stopped and started again."""

    def __init__(self, data):
        self.data = data
        self.start()

    def start(self):
        from codi.serve.access import Settings
        from codi.serve.app import create_app
        from codi.serve.service import Service

        self.service = Service(self.data, device="cpu")
        self.service.start()
        assert self.service.wait_ready(120)
        self.app = page.mount(create_app(self.service, Settings()), self.service)
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error"))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=[self.server.serve()])
        self.thread.start()
        while not self.server.started:
            time.sleep(0.05)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self):
        self.service.release()
        self.loop.call_soon_threadsafe(page.let_go, self.app)  # else it waits for browsers
        self.server.should_exit = True
        self.thread.join()
        self.service.stop()

    def newest(self):
        return self.service.list("local", 1)[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("data"))
    remember(found, tmp_path_factory.mktemp("photo") / "photo.png")
    yield found
    found.stop()


def remember(server, photo):
    """Let there be a history, whichever of the tests run here: a part that was kept, and all four."""
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(photo)
    keeps = {"text": "a red ball at night", "to": "image", "start": {"image": "photo.png"}}
    keeps |= {"keep": {"image": [[0, 0, 0.5, 1]]}, "steps": 2}
    everything = {
        "text": "a green star bounces quickly in the snow",
        "to": "text,image,audio,video",
        "steps": 2,
    }
    for request, files in ((keeps, {"photo.png": photo}), (everything, {})):
        job = server.service.submit(request, "local", files)
        assert list(server.service.events(job.id, "local", timeout=WAIT / 1000))[-1].kind == "done"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    tone = tmp_path_factory.mktemp("sound") / "tone.wav"
    with wave.open(str(tone), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48000)
        levels = [9000 * (k // 60 % 2 * 2 - 1) for k in range(96000)]
        file.writeframes(b"".join(level.to_bytes(2, "little", signed=True) for level in levels))
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    arguments.append(f"--use-file-for-fake-audio-capture={tone}")
    with playwright.sync_playwright() as tools:
        found = tools.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture(scope="module")
def tab(browser, server):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    context.set_default_timeout(WAIT)
    found = context.new_page()
    found.mistakes, found.hosts = [], set()
    found.on("request", lambda request: found.hosts.add(urlsplit(request.url).hostname))
    found.on("pageerror", lambda error: found.mistakes.append(str(error)))
    yield found
    context.close()


def opened(tab, server, path="", steps="2", outputs=None):
    """The page, fresh, with few steps and these outputs ticked."""
    tab.goto(f"http://127.0.0.1:{server.port}/{path}")
    tab.wait_for_selector("#make")
    tab.wait_for_function("document.querySelector('#history li, #history .history-empty')")
    if steps:
        unfold(tab, "Steps, guidance and sizes")
        tab.get_by_label("Steps", exact=True).fill(steps)
    for name in {"Text", "Picture", "Sound", "Clip"} - set(outputs or ()) if outputs else ():
        tab.locator("#outputs").get_by_label(name, exact=True).uncheck()
    return tab


def unfold(tab, name):
    tab.get_by_role("button", name=name).click()


def make(tab):
    """Make what is asked for, which may take less time than it takes to look."""
    before = tab.locator("#history li").count()
    tab.click("#make")
    tab.wait_for_function("count => document.querySelectorAll('#history li').length > count", arg=before)
    tab.wait_for_selector("#bars .bars", state="detached")


def made(tab):
    """What stands in the newest card, once its files have been drawn."""
    tab.wait_for_selector("article.result")
    return tab.locator("article.result")


def test_words_become_all_four_with_previews_players_and_record(tab, server):
    opened(tab, server, steps="12")
    tab.fill("#prompt textarea", "a green star bounces quickly in the snow")
    tab.click("#make")
    tab.wait_for_selector("#previews img")  # what it seems to become, while it runs
    assert tab.locator("#bars progress").count() == 4
    card = made(tab)
    for part in ("video", "img", "audio", "blockquote"):
        assert card.locator(f".tile {part}").count() == 1
    assert card.locator("blockquote").inner_text().strip()
    tab.wait_for_function("document.querySelectorAll('article codi-player[data-ready=yes]').length === 2")
    assert tab.evaluate("document.querySelector('article video').videoWidth") == 64
    assert card.locator("canvas").first.get_attribute("aria-label") == "Waveform of: Clip"
    record = json.loads(card.locator(".record pre").first.text_content())
    assert record["samples"][0]["seed"] == 0
    assert "Done in" in tab.locator("#status").inner_text()
    link = card.locator("a.act").first.get_attribute("href")
    answer = tab.request.get(f"http://127.0.0.1:{server.port}{link}")
    assert answer.ok and "attachment" in answer.headers["content-disposition"]


def test_a_painted_mask_says_what_is_made_anew_and_the_rest_stays_to_the_bit(tab, server):
    opened(tab, server, outputs=["Picture"])
    tab.fill("#prompt textarea", "a red ball at night")
    first = server.newest()
    tab.get_by_role("button", name=re.compile(r"Start from it: .*\.png")).click()
    tab.wait_for_selector("#problem .remark")
    tab.get_by_label("a part", exact=True).locator("visible=true").check()
    canvas = tab.locator(".ask canvas:visible").first
    canvas.wait_for()
    tab.wait_for_timeout(1500)  # the editor takes the picture up
    canvas.scroll_into_view_if_needed()
    tab.locator("[aria-label='Brush'], [title='Brush'], button[aria-label='Draw']").locator(
        "visible=true"
    ).first.click()
    area = canvas.bounding_box()
    middle = (area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    tab.mouse.move(*middle)
    tab.mouse.down()
    tab.mouse.move(middle[0] + 12, middle[1] + 4, steps=6)
    tab.mouse.up()
    tab.wait_for_timeout(1000)
    make(tab)
    made(tab)
    job = server.newest()
    assert job.id != first.id and job.state == "done", job.error
    assert job.request["keep"] == {"image": ["mask-image.png"]}
    check_kept(server, first, job)


def check_kept(server, first, job):
    from PIL import Image, ImageChops, ImageFilter

    def picture(view, suffix):
        name = next(file["name"] for file in view.files if file["name"].endswith(suffix))
        return Image.open(server.service.file(view.id, name, "local")).convert("RGB")

    mask = Image.open(server.service.file(job.id, "mask-image.png", "local")).resize(
        (64, 64), Image.Resampling.BOX
    )
    kept = mask.point(lambda level: 255 * (level == 255))
    share = sum(kept.histogram()[255:]) / 64**2
    assert 0.3 < share < 0.999, "something was painted, and not all of it"
    difference = ImageChops.difference(picture(first, ".png"), picture(job, ".png")).convert("L")
    black = Image.new("L", (64, 64))
    inside = ImageChops.composite(black, difference, kept)
    assert inside.getbbox() is not None, "what was painted is made anew"
    far = kept.filter(ImageFilter.MinFilter(11))  # seams of pictures fade over four pixels
    assert ImageChops.composite(difference, black, far).getbbox() is None, "the rest stays to the bit"


def test_a_recorded_sound_is_a_prompt(tab, server):
    opened(tab, server, outputs=["Text"])
    tab.get_by_role("button", name="+ Sound").click()
    slot = tab.locator(".slot:visible").first
    slot.get_by_label("Record audio").or_(slot.get_by_label("Microphone")).first.click()
    slot.get_by_role("button", name=re.compile("^Record")).first.click()
    tab.wait_for_timeout(1500)
    slot.get_by_role("button", name=re.compile("^Stop")).first.click()
    slot.get_by_role("button", name=re.compile("Play")).first.wait_for()
    make(tab)
    assert made(tab).locator("blockquote").inner_text().strip()
    job = server.newest()
    assert list(job.request)[:2] == ["to", "audio"] and job.inputs == [job.request["audio"][0]["value"]]
    sound = server.service.file(job.id, job.inputs[0], "local").read_bytes()
    assert len(sound) > 5000


def test_cancelling_ends_a_job_that_runs_and_the_page_is_free_again(tab, server):
    opened(tab, server, steps="200", outputs=["Picture"])
    tab.fill("#prompt textarea", "a blue ring pulses at night")
    tab.click("#make")
    tab.wait_for_selector("#previews img")
    tab.click("#cancel")
    tab.get_by_text("Cancelled.").wait_for()
    assert server.newest().state == "cancelled"
    assert tab.locator("#make").is_enabled() and not tab.locator("#cancel").is_visible()


def test_mistakes_are_told_in_place_and_nothing_is_made(tab, server):
    opened(tab, server, steps="0")
    before = server.newest().id
    tab.click("#make")
    alert = tab.get_by_role("alert").filter(has_text="There is no prompt")
    alert.wait_for()
    tab.fill("#prompt textarea", "a red ball")
    tab.click("#make")
    tab.get_by_role("alert").filter(has_text="num_inference_steps is 0").wait_for()
    assert server.newest().id == before


def test_markup_in_prompts_is_shown_as_text_everywhere(tab, server):
    wicked = "a red ball <img src=x onerror=window.wicked=1><script>window.wicked=2</script>"
    opened(tab, server, outputs=["Text"])
    tab.fill("#prompt textarea", wicked)
    make(tab)
    assert made(tab).locator("h3").first.inner_text() == wicked
    assert wicked in tab.locator(".past-title").first.inner_text()
    tab.locator(".record summary").last.click()
    assert tab.evaluate("window.wicked") is None
    assert tab.locator("article.result img, article.result script").count() == 0


def test_a_past_job_is_made_again_to_the_bit_and_with_a_new_seed(tab, server):
    opened(tab, server, steps=None)
    first = next(view for view in server.service.list("local", 9) if view.request.get("keep"))
    tab.locator(f"[data-act=open][data-job='{first.id}']").click()
    tab.locator(f"article[data-job='{first.id}']").wait_for()
    tab.get_by_role("button", name="Make again").click()
    tab.locator(f"article.result:not([data-job='{first.id}'])").wait_for()
    again = server.newest()
    assert again.id != first.id
    assert [file["sha256"] for file in pictures(server, again)] == [
        file["sha256"] for file in pictures(server, first)
    ]
    tab.get_by_role("button", name="New seed").click()
    tab.locator(f"article.result:not([data-job='{again.id}'])").wait_for()
    assert server.newest().record["samples"][0]["seed"] != 0


def pictures(server, view):
    """The files of a job, with the sums of their pixels, for files carry the names of their inputs."""
    import hashlib

    from PIL import Image

    found = []
    for file in view.files:
        pixels = Image.open(server.service.file(view.id, file["name"], "local")).tobytes()
        found.append({"sha256": hashlib.sha256(pixels).hexdigest()})
    return found


def test_history_outlives_a_restart(tab, server):
    before = [view.id for view in server.service.list("local")]
    server.stop()
    server.start()
    opened(tab, server, "?lang=de", steps=None)
    assert tab.url.endswith("/de/") and tab.get_by_role("button", name="Los").is_visible()
    shown = tab.locator("#history [data-act=open]").evaluate_all("each => each.map((e) => e.dataset.job)")
    assert shown == before[: len(shown)] and len(shown) >= 2
    tab.locator("#history [data-act=open]").last.click()
    tab.locator(f"article[data-job='{shown[-1]}']").wait_for()
    assert tab.locator("#shown").get_by_text("Startwert 0").is_visible()


def test_every_field_and_button_has_a_name_and_the_keyboard_is_enough(tab, server):
    opened(tab, server, steps=None)
    for kind in ("Words", "Picture", "Sound", "Clip", "Drawing"):
        tab.get_by_role("button", name=f"+ {kind}").click()
        tab.wait_for_timeout(300)
    for fold in tab.locator("button.label-wrap").all():
        fold.click()
        tab.wait_for_timeout(200)
    tab.wait_for_timeout(1000)
    nameless = tab.evaluate(NAMELESS)
    assert not nameless
    assert tab.evaluate("document.documentElement.lang") == "en"
    tab.focus("#prompt textarea")
    tab.keyboard.type("a red ball")
    tab.focus("#make")
    tab.keyboard.press("Enter")
    tab.get_by_role("alert").filter(has_text="is empty").wait_for()  # the prompts that were added
    assert not tab.mistakes
    assert tab.hosts <= {"127.0.0.1", None}, "nothing is fetched from elsewhere"


NAMELESS = """() => [...document.querySelectorAll('input, textarea, select, button, a[href], video, audio')]
    .filter((each) => each.offsetParent !== null && each.type !== 'file')
    .filter((each) => {
        const named = each.getAttribute('aria-label') || each.getAttribute('aria-labelledby') || each.title;
        const label = each.labels && [...each.labels].some((one) => one.innerText.trim());
        return !(named || label || each.innerText.trim());
    })
    .map((each) => each.outerHTML.slice(0, 160))"""


def test_it_fits_a_phone(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    tab = context.new_page()
    opened(tab, server, steps=None)
    tab.wait_for_selector("article.result")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.body.classList.contains('dark')")
    context.close()


def test_files_of_jobs_are_for_their_owners(server):
    import httpx

    def get(path, **headers):
        return httpx.get(f"http://127.0.0.1:{server.port}{path}", headers=headers).status_code

    job = next(view for view in server.service.list("local") if view.files)
    assert get(f"/media/{job.id}/{job.files[0]['name']}") == 200
    assert get(f"/media/{job.id}/..%2f..%2fqueue.sqlite") == 404
    assert get("/media/0000000000000000/x.png") == 404
    with pytest.raises(LookupError):
        server.service.file(job.id, job.files[0]["name"], "somebody else")

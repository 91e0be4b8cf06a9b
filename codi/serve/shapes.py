"""State what goes over HTTP, as models from which the page at /docs is made.

Requests are documented by these models and checked by the code that checks lines of jobs (`codi.jobs`), so
that there is one set of rules; answers are written by them.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from codi.jobs import job_keys, prompt_keys
from codi.modalities import in_words

State = Literal["queued", "running", "done", "failed", "cancelled"]


class Weighted(BaseModel):
    """A prompt, and how much it counts among the prompts that it is combined with."""

    model_config = ConfigDict(extra="forbid")

    value: str = Field(description="Words, or the name of a file.")
    weight: float = Field(1.0, ge=0, description="How much it counts.")


Prompt = str | Weighted | list[str | Weighted]
Scale = float | dict[str, float]

_FILE = "the name of an uploaded part, `job:ID/FILE` for a result of an own job, or an allowed https address"
# what a key of a job takes, and what it says; prompts are added below, for every modality that is known
_KEYS: dict[str, tuple[Any, str]] = {
    "id": (str, "A name for the files of the results; without it they are named 000, 001, ..."),
    "to": (str | list[str], "What is made: `image,audio`, or a list of names."),
    "num_samples": (int, "Sets of outputs (short: `samples`). Sample k is made from seed + k."),
    "candidates": (int, "Draw so many for each sample and keep the one that agrees best."),
    "seed": (int | Literal["random"], "The seed of the first sample; `random` draws one."),
    "num_inference_steps": (int | dict[str, int], "Denoising steps (short: `steps`)."),
    "height": (int, "Pixels of pictures and clips."),
    "width": (int, "Pixels of pictures and clips."),
    "num_frames": (int, "Frames of a clip."),
    "fps": (float, "Frames per second of a clip."),
    "audio_length_in_s": (float, "Seconds of sounds and clips (short: `seconds`)."),
    "guidance_scale": (
        Scale,
        "How closely to follow the prompts, for all outputs or each (short: `guidance`).",
    ),
    "sync_guidance_scale": (Scale, "How closely to follow the other outputs (short: `sync_guidance`)."),
    "start_offset": (Scale, "Schedules after which an output starts."),
    "guider": (dict[str, Any], "A variant of guidance, `{'name': 'apg', 'eta': 0.2}`."),
    "classifier_guidance": (dict[str, Any], "Gradients beside guidance, `{'name': 'prompt', 'scale': 0.2}`."),
    "upscale": (
        int | dict[str, Any],
        "By how much pictures and clips are made larger, `4` or `{'factor': 4, 'num_inference_steps': 8}`.",
    ),
    "sync": (bool, "Whether a clip or a sound that is given keeps its time."),
    "auxiliary_caption": (bool, "Whether several outputs may agree with a caption that nobody asked for."),
    "lengths": (Literal["agree", "free"], "Whether a clip and a sound last equally long."),
    "start": (dict[str, str], f"What an output is made from, by output: words, or {_FILE}."),
    "strength": (Scale, "How far an output leaves its start, 0 to 1."),
    "keep": (
        dict[str, Any],
        "What stays of a start, by output: seconds, a box, a frame, true, or a mask's file.",
    ),
    "keyframes": (
        dict[str, dict[str, str]],
        "Pictures by their frames or seconds: `{'video': {'0': 'a.png'}}`.",
    ),
    "canvas": (dict[str, list[float]], "The box in which a start lies on what is made, by output."),
    "resample_steps": (int, "How often a step is made where a part is kept."),
    "source_prompt": (str | dict[str, str], "What the starts show, in words; or by output."),
    "regions": (
        list[dict[str, Any]] | dict[str, Any],
        "Prompts for parts of what is made (docs/compose.md).",
    ),
    "continue": (
        dict[str, Any],
        "A clip or a sound that goes on: `{'files': ['clip.mp4'], 'seconds': 8}` (docs/editing.md).",
    ),
    "control": (dict[str, Any] | list[Any], "What outputs follow beside their prompts (docs/control.md)."),
}
EXAMPLES: list[Any] = [
    {"text": "a red star bounces in the snow", "to": "image,audio", "seed": 3},
    {"audio": [{"value": "take.wav", "weight": 2}], "to": ["video"], "num_samples": 2},
]


def _request() -> type[BaseModel]:
    """Return the model of a request, with a field for every key of a line of jobs."""
    fields: dict[str, Any] = {}
    for key in job_keys():
        if key in prompt_keys():
            modality = prompt_keys()[key]
            what = "Words" if in_words(modality) else _FILE[0].upper() + _FILE[1:]
            away = " to steer away from" if key.startswith("negative_") else ""
            kind, said = Prompt, f"{what}{away}; a text may end in a weight, `::0.5`; a list holds several."
        else:
            kind, said = _KEYS.get(key, (Any, "As in a line of jobs (docs/command-line.md)."))
        fields[key] = (kind | None if kind is not Any else Any, Field(None, description=said))
    fields["model"] = (str | None, Field(None, description="One of `GET /v1/models`; the first if left out."))
    found = create_model("JobRequest", **fields)
    found.__doc__ = "A line of `codi generate --jobs`, and the model that is to make it."
    found.model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": EXAMPLES})
    found.model_rebuild(force=True)
    return found


JobRequest = _request()


class JobFile(BaseModel):
    """One file that a job made."""

    name: str
    modality: str | None = Field(None, description="What it is; null for the record of the job.")
    sample: int | None = Field(None, description="Which sample it belongs to, from 0.")
    type: str = Field(description="Its media type.")
    bytes: int
    sha256: str
    url: str = Field(description="Where to get it, from the root of this server.")


class Job(BaseModel):
    """A job of the queue."""

    id: str
    object: Literal["job"] = "job"
    state: State
    model: str
    request: dict[str, Any] = Field(description="What was asked for.")
    created: float = Field(description="Seconds since 1970.")
    started: float | None = None
    ended: float | None = None
    position: int | None = Field(None, description="How many come first; null once it is no longer queued.")
    progress: float = Field(description="How much of it is made, 0 to 1.")
    files: list[JobFile] = []
    record: dict[str, Any] | None = Field(None, description="How it was made; lists of jobs leave it out.")
    error: str | None = Field(None, description="Why it failed, in one line.")


class JobList(BaseModel):
    """A page of jobs, the newest first."""

    object: Literal["list"] = "list"
    data: list[Job]
    has_more: bool
    next: str | None = Field(None, description="What to give as `before` to get the next page.")


class Deleted(BaseModel):
    """Says that something is gone."""

    id: str
    object: str = "job.deleted"
    deleted: bool = True


class Problem(BaseModel):
    """What went wrong, in one line."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorBody(BaseModel):
    """The answer to whatever cannot be done."""

    error: Problem


class Model(BaseModel):
    """A model of this server; beside these fields it says what a form needs to know of it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "codi"


class ModelList(BaseModel):
    """The models of this server."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """Whether the server is up; who may ask it for jobs is told more."""

    model_config = ConfigDict(extra="allow")

    status: str = "ok"


class ImageRequest(BaseModel):
    """A request for pictures in OpenAI's shape."""

    prompt: str = Field(max_length=32_000, description="What is to be seen.")
    model: str | None = Field(None, description="One of `GET /v1/models`.")
    n: int | None = Field(1, ge=1, le=10, description="How many pictures.")
    size: str | None = Field(None, description="`WIDTHxHEIGHT`, or `auto` for the model's own.")
    response_format: Literal["url", "b64_json"] | None = Field("url", description="How pictures come.")
    output_format: Literal["png"] | None = Field(None, description="Pictures are png.")
    seed: int | None = Field(None, ge=0, description="Not OpenAI's: drawn if left out.")
    num_inference_steps: int | None = Field(None, description="Not OpenAI's: as in a job.")
    guidance_scale: float | None = Field(None, description="Not OpenAI's: as in a job.")
    negative_text: str | None = Field(None, description="Not OpenAI's: what to steer away from.")
    user: str | None = Field(None, description="Ignored: the token says who asks.")
    quality: str | None = Field(None, description="Ignored; a model has one quality.")
    style: str | None = Field(None, description="Ignored.")
    moderation: str | None = Field(None, description="Ignored: nothing is filtered here.")
    background: Literal["auto", "opaque"] | None = Field(None, description="Pictures are opaque.")


class ImageData(BaseModel):
    """One picture, as an address or in base64."""

    url: str | None = None
    b64_json: str | None = None


class Images(BaseModel):
    """Pictures in OpenAI's shape."""

    created: int
    data: list[ImageData]


class SpeechRequest(BaseModel):
    """A request for a sound in OpenAI's shape. The model makes sounds that are described, and no speech."""

    input: str = Field(max_length=4096, description="What is to be heard: a description, not words to speak.")
    model: str | None = Field(None, description="One of `GET /v1/models`.")
    voice: Any = Field(None, description="Ignored: nobody speaks.")
    response_format: Literal["mp3", "wav", "flac", "pcm"] | None = Field(
        "mp3", description="pcm is 24 kHz, 16 bit, mono, without a header."
    )
    speed: float | None = Field(None, ge=1, le=1, description="1, or left out.")
    stream_format: Literal["audio"] | None = Field(None, description="The sound comes as it is.")
    seconds: float | None = Field(None, gt=0, description="Not OpenAI's: how long it lasts.")
    seed: int | None = Field(None, ge=0, description="Not OpenAI's: drawn if left out.")
    num_inference_steps: int | None = Field(None, description="Not OpenAI's: as in a job.")
    guidance_scale: float | None = Field(None, description="Not OpenAI's: as in a job.")
    negative_text: str | None = Field(None, description="Not OpenAI's: what to steer away from.")
    user: str | None = Field(None, description="Ignored: the token says who asks.")


class VideoRequest(BaseModel):
    """A request for a clip in OpenAI's shape, as JSON or as a form."""

    prompt: str = Field(max_length=32_000, description="What is to be seen and heard.")
    model: str | None = Field(None, description="One of `GET /v1/models`.")
    seconds: str | float | None = Field(
        None, description="How long the clip lasts; the model's own if left out."
    )
    size: str | None = Field(None, description="`WIDTHxHEIGHT`, or `auto` for the model's own.")
    seed: int | None = Field(None, ge=0, description="Not OpenAI's: drawn if left out.")
    num_inference_steps: int | None = Field(None, description="Not OpenAI's: as in a job.")
    guidance_scale: float | None = Field(None, description="Not OpenAI's: as in a job.")
    negative_text: str | None = Field(None, description="Not OpenAI's: what to steer away from.")
    user: str | None = Field(None, description="Ignored: the token says who asks.")


class VideoProblem(BaseModel):
    """Why a clip was not made."""

    code: str
    message: str


class Video(BaseModel):
    """A job that makes a clip, in OpenAI's shape."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(description="Percent.")
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = Field(None, description="Always null: clips stay until they are deleted.")
    prompt: str | None = None
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    error: VideoProblem | None = None


class VideoList(BaseModel):
    """A page of jobs that make clips, the newest first."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False

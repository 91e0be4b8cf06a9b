"""Tokenizers as values: a `tokenizers` JSON string in a component's configuration, so that a part and its words never come apart."""

from typing import Any

from transformers import PreTrainedTokenizerFast

SPECIAL = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "cls_token": "<bos>",
    "sep_token": "<eos>",
}


def load_tokenizer(serialised: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a `tokenizers` JSON string; special tokens as in `SPECIAL`, sentences framed by <bos> and <eos>."""
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(serialised), model_max_length=64, **SPECIAL)


def word_tokenizer(words: list[str]) -> str:
    """JSON of a lower-casing word-level tokenizer over `words` (anything else is <unk>), framing sentences by <bos> and <eos>."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", *sorted(set(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
    )
    return tokenizer.to_str()


def unknown_words(tokenizer: Any, sentence: str) -> tuple[list[str], int]:
    """The words of a sentence that a tokenizer takes for its unknown one, and how many words it has in all. One of pieces lacks none."""
    tokens = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places = zip(tokens["input_ids"], tokens["offset_mapping"])
    return [sentence[a:b] for number, (a, b) in places if number == tokenizer.unk_token_id], len(tokens["input_ids"])

"""The shipped editor's tokenizer: CLIP's byte-pair scheme with a vocabulary learned from its own instructions."""

import json
from string import ascii_lowercase

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(instructions: list[str], max_length: int) -> CLIPTokenizer:
    """Every word of the instructions becomes one token; any other English word is spelled out in letters."""
    trainer = BpeTrainer(
        vocab_size=1024,
        min_frequency=1,
        special_tokens=[START, END],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token=END))
    learner.pre_tokenizer = Sequence([Split(" ", "removed"), ByteLevel(add_prefix_space=False, use_regex=False)])
    learner.train_from_iterator([text.lower() for text in instructions] + [" ".join(ascii_lowercase)], trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=max_length)

"""A Llama small enough to serve anywhere: random weights, so its text is noise, and all of the protocol is real.

Run with vLLM's environment: `VENV/bin/python tiny_llm.py FOLDER` makes FOLDER/model, which also serves embeddings
(`--runner pooling`), and FOLDER/adapter, a LoRA adapter for it. The seed is fixed: the same bytes every time.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20
RANK = 8
MOST_TOKENS = 512
SPECIAL = ["<pad>", "<s>", "</s>"]
TEXT = [
    "A node is a machine with one or more GPUs, and the daemon on it runs what it is told to run.",
    "The user asks, the assistant answers; a tool is called when the answer needs one.",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}',
]
CHAT = (
    "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, so it can say anything."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=MOST_TOKENS, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    named = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=CHAT, **named)


def config(vocabulary: int) -> LlamaConfig:
    """Two layers; ids of the special tokens as the tokenizer gives them."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def adapter(shape: LlamaConfig) -> dict[str, torch.Tensor]:
    """Random, and large enough to change what is said."""
    width = shape.hidden_size
    per_head = width // shape.num_attention_heads
    outputs = {"q_proj": width, "v_proj": per_head * shape.num_key_value_heads}
    weights = {}
    for layer in range(shape.num_hidden_layers):
        for name, output in outputs.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(RANK, width)
            weights[f"{prefix}.lora_B.weight"] = torch.randn(output, RANK)
    return weights


def main(folder: Path) -> None:
    """Writes both."""
    torch.manual_seed(SEED)
    words = tokenizer()
    words.save_pretrained(folder / "model")
    # Every token is one that can be said.
    shape = config(len(words))
    LlamaForCausalLM(shape).to(torch.bfloat16).save_pretrained(folder / "model")
    (folder / "adapter").mkdir(exist_ok=True)
    save_file(adapter(shape), folder / "adapter/adapter_model.safetensors")
    described = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": RANK}
    described |= {"lora_alpha": RANK, "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter/adapter_config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

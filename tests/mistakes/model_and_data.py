"""Mistakes in the model's tensors, bands, files and counts, and in the data that it is trained on."""

from mistakes.mistake import mistake

MODEL = (
    mistake(
        "the count of kept weights is one short per channel",
        "gpt2lab/model/bands.py",
        "(last - first + 1).sum()",
        "(last - first).sum()",
        "test_bands.py",
    ),
    mistake(
        "the band's edge is left out of the mask",
        "gpt2lab/model/bands.py",
        "2 * np.abs(hidden - 4 * channel) <= band",
        "2 * np.abs(hidden - 4 * channel) < band",
        "test_bands.py",
    ),
    mistake(
        "the window of a tile of channels ends one hidden unit early",
        "gpt2lab/model/band_tiles.py",
        "min(4 * (tile.stop - 1) + half_band + 1, F)",
        "min(4 * (tile.stop - 1) + half_band, F)",
        "test_band_tiles.py",
    ),
    mistake(
        "a weight of layer norm decays",
        "gpt2lab/model/params.py",
        '_spec("ln2w", "L C", "ones", False,',
        '_spec("ln2w", "L C", "ones", True,',
        "test_engines.py::test_one_update_is_adamw_written_out[torch]",
    ),
    mistake(
        "residual projections start scaled by the square root of L",
        "gpt2lab/model/init.py",
        "math.sqrt(2 * config.n_layer)",
        "math.sqrt(config.n_layer)",
        "test_init.py",
    ),
    mistake(
        "layers and heads change places in the header of a checkpoint",
        "gpt2lab/model/llmc.py",
        '"n_layer", "n_head", "n_embd", "padded_vocab_size")',
        '"n_head", "n_layer", "n_embd", "padded_vocab_size")',
        "test_llmc.py",
    ),
    mistake(
        "a square matrix of Hugging Face is not transposed",
        "gpt2lab/model/params.py",
        '"transformer.h.{i}.attn.c_proj.weight", True)',
        '"transformer.h.{i}.attn.c_proj.weight", False)',
        "test_huggingface.py::test_a_transformers_model_gives_equal_logits_here",
    ),
    mistake(
        "the backward pass of the output layer is counted once",
        "gpt2lab/model/flops.py",
        "counts.logit_rows * 6 *",
        "counts.logit_rows * 4 *",
        "test_flops.py",
    ),
)

DATA = (
    mistake(
        "the target of the last window lies behind the shard",
        "gpt2lab/data/batches.py",
        "last_target = 0 if self._rows else 1",
        "last_target = 0",
        "test_batches.py",
    ),
    mistake(
        "the last target of a row is its last token",
        "gpt2lab/data/batches.py",
        "tokens[:, T] = tokens[:, 0]",
        "tokens[:, T] = tokens[:, T - 1]",
        "test_batches.py",
    ),
    mistake(
        "a split between train and val may cut a character",
        "gpt2lab/data/prepare.py",
        "text[position] & 0xC0 == 0x80",
        "text[position] & 0xC0 == 0xC0",
        "test_prepare.py::test_a_character_is_never_split_between_train_and_val",
    ),
    mistake(
        "a download is not compared with its hash",
        "gpt2lab/data/download.py",
        "if found != file.sha256:",
        "if not found:",
        "test_prepare.py::test_a_wrong_hash_throws_the_download_away",
    ),
)

SOURCES = (
    mistake(
        "an id equal to the vocabulary size is accepted",
        "gpt2lab/data/ids.py",
        "if head.size and int(head.max()) >= vocab_size:",
        "if head.size and int(head.max()) > vocab_size:",
        "test_sources.py::test_an_id_above_the_vocabulary_is_named_by_file_and_position",
    ),
    mistake(
        "a key that the source does not use is ignored",
        "gpt2lab/data/sources/registry.py",
        "or value == key.default:",
        "or value is not None:",
        "test_sources.py::test_a_key_that_a_source_does_not_use_is_refused",
    ),
    mistake(
        "a tie counts as a majority of ones",
        "gpt2lab/data/sources/formal.py",
        "keepdims=True) > bits.shape[1]",
        "keepdims=True) >= bits.shape[1]",
        "test_synthetic.py",
    ),
)

MISTAKES = (*MODEL, *DATA, *SOURCES)

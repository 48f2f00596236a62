"""The models that compute, one file per architecture; what several share has a file of its own.

Gemma 2 and 3 are one architecture here: they differ by what `GemmaConfig` says (query and key
norms, soft caps, which layers slide, RoPE), so both are `gemma.GemmaModel`.

`GemmaConfig.from_dict` reads `model_type` from config.json and refuses those that no file here
computes; `gemma_mlx.loading.load_checkpoint` makes the model. To add an architecture:

1. Write its file with a class that has the parameters' names of its checkpoints and
   `GemmaModel`'s methods (`__call__`, `embed`, `run_blocks`, `logits`, `shard`), and that calls
   the hook at every site of `gemma_mlx.sites`.
2. Add its `model_type`, the keys it reads and their defaults to `gemma_mlx.config`.
3. Choose the class by `config.model_type` in `load_checkpoint`.
4. Test it against transformers as `tests/gemma_mlx/test_parity_transformers.py` does.
"""

"""mlx-lm: Apple's machines, and Linux with its CPU backend.

Models whose layers all keep every token export blocks. Those with sliding windows or recurrent layers
export whole states, with what each layer says of itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from lix_cache.errors import EngineError, MissingExtra
from lix_cache.kv.engine import Options, model_folder
from lix_cache.kv.engines.attributes import attributes_of
from lix_cache.kv.engines.in_process import CachedSequence, InProcessEngine
from lix_cache.kv.tensors import ITEM_SIZE, State, Tensor

__all__ = ["MlxEngine"]

_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "int64": "I64",
    "uint32": "U32",
    "uint8": "U8",
    "bool": "BOOL",
}
_MLX = {ours: theirs for theirs, ours in _DTYPES.items()}
#: Unsigned integers of a size: bytes go between mlx and numpy so, for numpy lacks bfloat16.
_INTEGERS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


class MlxEngine(InProcessEngine):
    """A language model of mlx-lm. Loaded by :meth:`load`, or handed over.

    Args:
        model: of ``mlx_lm.load``.
        tokenizer: its own.
        context_tokens: the most tokens of a sequence; None is what the model's config says.
        most_live: how many sequences to hold at once.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, context_tokens: int | None = None, most_live: int = 64
    ) -> None:
        super().__init__()
        self._mx = _mlx()
        self._model = model
        self._tokenizer = tokenizer
        config = vars(getattr(model, "args", None) or object.__new__(_Empty))
        self.context_tokens = context_tokens or int(config.get("max_position_embeddings") or 4096)
        self.most_live = most_live
        kinds = {type(layer).__name__ for layer in self._new_cache()}
        self.exports: Literal["blocks", "snapshots"] = "blocks" if kinds == {"KVCache"} else "snapshots"
        self.cuts = self.exports == "blocks"
        ends = getattr(tokenizer, "eos_token_ids", None) or tokenizer.eos_token_id
        ends = [ends] if isinstance(ends, int) else ends or ()
        self.end_ids = frozenset(int(one) for one in ends)
        self.special_ids = frozenset(tokenizer.all_special_ids)
        # The template writes them.
        self.start_ids: list[int] = []
        self._layers, self._config = sorted(kinds), config
        self.look()

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> MlxEngine:
        """Load a model folder: weights, config and tokenizer. Nothing is fetched.

        Args:
            folder: of the model.
            options: of the class.

        Raises:
            ConfigError: there is no such folder.
            EngineError: mlx-lm cannot load it.
        """
        path = model_folder(folder)
        _mlx()
        import mlx_lm

        try:
            loaded = mlx_lm.load(path)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise EngineError(f"mlx-lm cannot load {path!r}: {error}") from error
        return cls(loaded[0], loaded[1], **options)

    def _facts(self) -> dict[str, Any]:
        from importlib.metadata import version

        from mlx.utils import tree_flatten

        digest = hashlib.sha256()
        arrays: Any = tree_flatten(self._model.parameters())
        for name, array in sorted(arrays):
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
            digest.update(self._bytes(array))
        tokenizer = self._tokenizer
        text = str(tokenizer.backend_tokenizer.to_str())
        return {
            "engine": "mlx",
            "engine_version": f"{version('mlx-lm')} mlx {version('mlx')}",
            "weights": digest.hexdigest(),
            "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
            "chat_template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
            "config": json.loads(json.dumps(dict(self._config), default=str)),
            # Of adapters: they are no weights.
            "attributes": attributes_of(self._model.named_modules()),
            "device": str(self._mx.default_device()),
            "layers": self._layers,
            "exports": self.exports,
        }

    def _signs(self) -> Any:
        from mlx.utils import tree_flatten

        arrays: Any = tree_flatten(self._model.parameters())
        # What is written to an array makes another one.
        return attributes_of(self._model.named_modules()), [(name, id(one)) for name, one in arrays]

    # -- text --------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        return [int(one) for one in self._tokenizer.encode(text, add_special_tokens=False)]

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    # -- steps -------------------------------------------------------------------------

    def _new_cache(self) -> Any:
        from mlx_lm.models.cache import make_prompt_cache

        return make_prompt_cache(self._model)

    def _step(self, sequence: CachedSequence, ids: list[int]) -> Any:
        logits = self._model(self._mx.array([ids]), cache=sequence.cache)[0, -1]
        self._mx.eval(logits)
        return logits

    def _chooser(self, options: Options) -> Callable[[Any], int]:
        from mlx_lm.sample_utils import make_sampler

        mx = self._mx
        if options.temperature <= 0 or options.top_p <= 0:
            # A share of nothing is the most probable one; the sampler takes it for all.
            return lambda logits: int(mx.argmax(logits).item())
        if options.seed is not None:
            mx.random.seed(options.seed % (1 << 64))
        # The temperature before the share, as the other engines do: the sampler would do it behind.
        sample: Any = make_sampler(temp=1.0, top_p=options.top_p if options.top_p < 1 else 0.0)

        def choose(logits: Any) -> int:
            scores = logits.astype(mx.float32) / options.temperature
            return int(sample((scores - mx.logsumexp(scores))[None])[0].item())

        return choose

    def _cut(self, sequence: CachedSequence, count: int) -> None:
        for layer in sequence.cache:
            layer.trim(layer.offset - count)

    def _halves(self, sequence: CachedSequence) -> Iterator[tuple[str, Any]]:
        for number, layer in enumerate(sequence.cache):
            yield f"{number}.k", layer.keys
            yield f"{number}.v", layer.values

    def _lengths(self, sequence: CachedSequence) -> set[int]:
        return {layer.offset for layer in sequence.cache if hasattr(layer, "offset")}

    def _restore_blocks(self, sequence: CachedSequence, states: Sequence[State]) -> None:
        for number, layer in enumerate(sequence.cache):
            halves = [
                self._mx.concatenate([self._array(state[f"{number}.{half}"]) for state in states], axis=1)[
                    None
                ]
                for half in "kv"
            ]
            layer.keys, layer.values = halves
            layer.offset = int(halves[0].shape[2])

    def _snapshot(self, sequence: CachedSequence) -> State:
        """Return every array and number of every layer: kinds of layers differ in what they keep."""
        state: dict[str, Tensor] = {}
        for number, layer in enumerate(sequence.cache):
            for name, value in vars(layer).items():
                parts = enumerate(value) if isinstance(value, list) else [(-1, value)]
                for index, one in parts:
                    place = f"{number}.{name}" + ("" if index < 0 else f".{index}")
                    if isinstance(one, self._mx.array):
                        state[place] = self._exported(one)
                    elif isinstance(one, int):
                        state[place] = Tensor("I64", (), int(one).to_bytes(8, "little", signed=True))
                    elif one is not None:
                        raise EngineError(f"a cache layer of kind {type(layer).__name__} cannot be exported")
        return state

    def _restore_snapshot(self, sequence: CachedSequence, state: State) -> None:
        for name, tensor in state.items():
            number, attribute, *index = name.split(".")
            layer = sequence.cache[int(number)]
            before = vars(layer)[attribute]
            is_number = isinstance(before, int) and not index
            value = type(before)(int(tensor.array("<i8"))) if is_number else self._array(tensor)
            if index:
                before[int(index[0])] = value
            else:
                setattr(layer, attribute, value)

    def _bytes(self, array: Any) -> bytes:
        kind = getattr(self._mx, _INTEGERS[array.dtype.size])
        flat = array.reshape(-1)
        # Of a boolean there is no view; it is a byte all the same.
        plain = flat.astype(kind) if array.dtype == self._mx.bool_ else flat.view(kind)
        return np.array(plain).tobytes()

    def _exported(self, array: Any) -> Tensor:
        dtype = _DTYPES.get(str(array.dtype).rpartition(".")[2].rstrip("_"))
        if dtype is None:
            raise EngineError(f"a state of dtype {array.dtype} cannot be exported")
        return Tensor(dtype, tuple(array.shape), self._bytes(array))

    def _array(self, tensor: Tensor) -> Any:
        name = _INTEGERS[ITEM_SIZE[tensor.dtype]]
        made = self._mx.array(tensor.array(name))
        if tensor.dtype == "BOOL":
            return made.astype(self._mx.bool_)
        return made.reshape(-1).view(getattr(self._mx, _MLX[tensor.dtype])).reshape(tensor.shape)

    def _arrays(self, sequence: CachedSequence) -> Iterator[Any]:
        for layer in sequence.cache:
            for value in vars(layer).values():
                for one in value if isinstance(value, list) else (value,):
                    if isinstance(one, self._mx.array):
                        yield one


class _Empty:
    pass


def _mlx() -> Any:
    try:
        import mlx.core
        import mlx_lm  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "mlx-lm", "mlx", "MlxEngine") from None
    return mlx.core

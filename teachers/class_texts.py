"""Class vectors by meaning: a class of the ontology, an open phrase, or neither."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.data.records import Ontology


class NameEncoder(Protocol):
    """Names to normalised text vectors (K, d) float32, one a name."""

    def encode(self, names: Sequence[str]) -> npt.NDArray[np.float32]: ...


class ClassTexts:
    """Text vectors (d,) float32 on the CPU, computed once a name."""

    def __init__(self, encoder: NameEncoder, ontology: Ontology) -> None:
        self._encoder = encoder
        names = [category.name for category in ontology.categories]
        vectors = torch.from_numpy(np.asarray(encoder.encode(names), np.float32))
        self._by_class: dict[int, Tensor] = dict(zip(ontology.ids, vectors, strict=True))
        self._by_phrase: dict[str, Tensor] = {}
        self.width = vectors.shape[1]

    def vector(self, class_id: int | None, phrase: str | None) -> Tensor:
        """The vector of a class id or phrase; zeros when neither is known. KeyError for an unknown id."""
        if class_id is not None:
            return self._by_class[class_id]
        if phrase is None:
            return torch.zeros(self.width)
        if phrase not in self._by_phrase:
            encoded = np.asarray(self._encoder.encode([phrase]), np.float32)
            self._by_phrase[phrase] = torch.from_numpy(encoded[0])
        vector: Tensor = self._by_phrase[phrase]
        return vector

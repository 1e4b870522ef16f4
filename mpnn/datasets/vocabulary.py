"""Words as numbers: a vocabulary, and the vectors that are known of its words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Vocabulary"]

UNKNOWN = "<unk>"


class Vocabulary(Sequence[str]):
    """The words of some texts, each with a number: 0 is any other word, then the known ones, the most frequent first.

    There is no padding word: sequences are chains, and chains of different lengths lie side by side in a batch.

    Args:
        texts: sequences of words (or strings, whose words are their characters).
        min_count: how often a word must occur to be known.

    Attributes:
        words: all words by number; ``"<unk>"`` is the first.

    Example:
        >>> known = Vocabulary([["a", "cat"], ["a", "dog"]])
        >>> known.words, known(["a", "cow"]).tolist()
        (['<unk>', 'a', 'cat', 'dog'], [1, 0])
    """

    def __init__(self, texts: Iterable[Iterable[str]], min_count: int = 1):
        counts = Counter(word for text in texts for word in text)
        known = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        self.words = [UNKNOWN, *(word for word in known if word != UNKNOWN)]
        self.number = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, number):
        return self.words[number]

    def __call__(self, words: Iterable[str]) -> Tensor:
        """The numbers of words, ``(N,)`` int64; 0 where a word is not known."""
        return torch.tensor([self.number.get(word, 0) for word in words], dtype=torch.long)

    def embedding(self, words: Sequence[str], vectors: np.ndarray, std: float = 0.05) -> tuple[nn.Embedding, Tensor]:
        """An embedding of the vocabulary that starts from given vectors; the words without one are drawn from
        N(0, std^2).

        Args:
            words: the words that have a vector.
            vectors: ``(len(words), D)``, any float type.
            std: of the words without one.

        Returns:
            The embedding ``(V, D)``, and which words have a vector, ``(V,)`` bool.

        Example:
            >>> table, found = Vocabulary([["a", "b"]]).embedding(["b", "c"], np.ones((2, 3)))
            >>> table.weight[2].tolist(), found.tolist()
            ([1.0, 1.0, 1.0], [False, False, True])
        """
        if len(words) != len(vectors):
            raise ValueError(
                f"Vocabulary: {len(words)} words, but {len(vectors)} vectors; expected as many. "
                "Take both from the same file."
            )
        rows = [(self.number[word], row) for row, word in enumerate(words) if word in self.number]
        table = nn.Embedding(len(self), vectors.shape[1])
        found = torch.zeros(len(self), dtype=torch.bool)
        with torch.no_grad():
            nn.init.normal_(table.weight, std=std)
            if rows:
                to, take = map(list, zip(*rows))
                table.weight[to] = torch.as_tensor(vectors[take]).to(table.weight.dtype)
                found[to] = True
        return table, found

r"""Documents as one graph: words in sentences, sentences in a document, each in a row.

============================== ==========================================================
edges                          from
============================== ==========================================================
(word, next, word)             each word to the next of its sentence
(word, in, sentence)           each word to its sentence
(sentence, next, sentence)     each sentence to the next
(sentence, in, document)       each sentence to the document
============================== ==========================================================

:class:`mpnn.nn.HierarchicalAttention` reads them. The same graph may come from networkx, its nodes in any order::

    x = {"word": "vector", "sentence": None, "document": None}
    data = mpnn.from_networkx(graph, node_type="kind", edge_type="relation", x=x)

Example:
    >>> data = document([["a", "cat", "sat"], ["it", "slept"]])
    >>> data["word", "next", "word"].edge_index.tolist(), data["word", "in", "sentence"].edge_index.tolist()
    ([[0, 1, 3], [1, 2, 4]], [[0, 1, 2, 3, 4], [0, 0, 0, 1, 1]])
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

__all__ = ["LEVELS", "document", "shaded"]

LEVELS = ("word", "sentence", "document")


def document(sentences: Sequence[Sequence[str]], name: str = "document") -> HeteroData:
    """A document from the words of its sentences.

    Args:
        sentences: a list of words each.
        name: what errors call the document.

    Returns:
        HeteroData with the nodes word, sentence and document, and edge_index of the four types above;
        ``data["word"].word`` is the list of all words. Documents batch as usual.

    Raises:
        ValueError: there is no sentence, or one has no word; the message names it.
        TypeError: a sentence is a string.

    Example:
        >>> document([["a", "cat"], []], "review 7")
        Traceback (most recent call last):
            ...
        ValueError: document: in review 7, sentence 1 of 2 has no words; expected one or more in each. Leave it out.
    """
    sentences = list(sentences)
    if not sentences:
        raise ValueError(f"document: {name} has no sentences; expected one or more. Leave it out.")
    for place, words in enumerate(sentences):
        if isinstance(words, str):
            raise TypeError(
                f"document: in {name}, sentence {place} is the string {words[:30]!r}; expected a list of words. Split "
                "it, for example by .split()."
            )
        if not len(words):
            raise ValueError(
                f"document: in {name}, sentence {place} of {len(sentences)} has no words; expected one or more in each."
                " Leave it out."
            )
    data = HeteroData()
    data["word"].word = [word for words in sentences for word in words]
    length = torch.tensor([len(words) for words in sentences])
    inside = torch.repeat_interleave(length)
    _put_level(data, "word", "sentence", inside)
    _put_level(data, "sentence", "document", torch.zeros_like(length))
    data["document"].num_nodes = 1
    return data


def _put_level(data: HeteroData, lower: str, upper: str, inside: Tensor) -> None:
    """The nodes of a level, given what each is inside of, in a row there."""
    node = torch.arange(len(inside))
    data[lower].num_nodes = len(inside)
    on = node[:-1][inside[1:] == inside[:-1]]
    data[lower, "next", lower].edge_index = torch.stack([on, on + 1])
    data[lower, "in", upper].edge_index = torch.stack([node, inside])


def shaded(data: HeteroData, words: Tensor, sentences: Tensor, title: str = "", note: str = "") -> str:
    r"""A document as a page of HTML: a line a sentence, its weight as a bar in front, the words' weights as shades.

    A word's shade is :math:`\sqrt{p_s}\, p_w`, so that words of sentences that do not matter are faint, and the largest
    is full.

    Source: Yang et al. 2016, section 3.4. Deviations: none.

    Args:
        data: one document, as :func:`document` makes it.
        words, sentences: ``(N_words,)`` and ``(N_sentences,)``, the weights p_w and p_s, as
            :meth:`mpnn.nn.HierarchicalAttention.weights` gives them.
        title, note: a heading, and a line below it.

    Raises:
        ValueError: there is not one weight for each word and each sentence.

    Example:
        >>> page = shaded(document([["1", "<", "2"]]), torch.tensor([0.1, 0.8, 0.1]), torch.tensor([1.0]))
        >>> "&lt;" in page, page.count("<span")
        (True, 3)
    """
    for kind, weights in (("word", words), ("sentence", sentences)):
        if weights.shape != (data[kind].num_nodes,):
            raise ValueError(
                f"shaded: the weights of {kind}s have shape {tuple(weights.shape)}; expected ({data[kind].num_nodes},),"
                f" one for each {kind}."
            )
    inside = data["word", "in", "sentence"].edge_index[1]
    shade = words * sentences[inside].sqrt()
    shade, bars = (shade / shade.max()).tolist(), (4 * sentences / sentences.max()).tolist()
    lines: list[list[str]] = [[] for _ in bars]
    for text, line, colour in zip(data["word"].word, inside.tolist(), shade, strict=True):
        lines[line].append(f'<span style="background:rgba(70,130,220,{colour:.3f})">{html.escape(str(text))}</span>')
    rows = "\n".join(
        f'<p><i style="width:{bar:.2f}em; margin-right:{4.5 - bar:.2f}em" title="{p:.3f}"></i>{" ".join(line)}</p>'
        for line, bar, p in zip(lines, bars, sentences.tolist(), strict=True)
    )
    return PAGE.format(title=html.escape(title), note=html.escape(note), rows=rows)


PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: serif; max-width: 60em; margin: 2em auto; line-height: 1.5 }}
p {{ margin: 0.2em 0 0.2em 4.5em; text-indent: -4.5em }}
i {{ display: inline-block; height: 0.8em; background: rgb(200,60,60); text-indent: 0 }}
span {{ padding: 0 0.1em; border-radius: 0.2em; text-indent: 0 }}
</style></head><body>
<h1>{title}</h1>
<p style="margin-left:0;text-indent:0">{note}</p>
{rows}
</body></html>
"""

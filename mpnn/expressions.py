r"""ListOps: nested list operations on digits, as trees; the value at the root is what a model has to find.

``[MAX 2 9 [MIN 4 7 ] 0 ]`` has the value 9. Each operator and each digit is a node, each argument sends an edge to its
operator, and nodes are numbered breadth first, so the arguments of an operator stand in the order of their numbers.

Source: Nangia & Bowman 2018, "ListOps: A Diagnostic Dataset for Latent Tree Learning", arXiv:1804.06028.
Deviations: a node for each operator with all its arguments as children, where the paper gives brackets that are
binarised from the left; sizes are set by ``min_depth``, ``max_depth`` and ``nest``; no expression is thrown away for
its length, and duplicates are kept. As in the public ListOps generators: 2 to 5 arguments, nesting with probability
0.25, the MED of an even number of arguments is the mean of the two middle ones rounded down, SM is the sum modulo 10.

Example:
    >>> import torch
    >>> data = parse("[MAX 2 [SM 5 9 ] ]")
    >>> data.x.tolist(), data.edge_index.tolist(), data.y.item()
    ([10, 2, 13, 5, 9], [[1, 2, 3, 4], [0, 0, 2, 2]], 4)
    >>> to_text(random_expression(torch.Generator().manual_seed(3), max_depth=2))
    '[MAX [SM 6 9 1 ] 5 [SM 6 2 8 ] ]'
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor
from torch_geometric.data import Data

__all__ = ["OPERATORS", "TOKENS", "evaluate", "parse", "random_expression", "random_expressions", "to_text"]

OPERATORS = ("MAX", "MIN", "MED", "SM")
TOKENS = (*(str(digit) for digit in range(10)), *OPERATORS)
"""What a token id in ``x`` stands for: 0 to 9 are the digits, 10 to 13 MAX, MIN, MED, SM."""


def random_expression(
    generator: torch.Generator | None = None,
    max_depth: int = 5,
    min_depth: int = 1,
    max_args: int = 5,
    nest: float = 0.25,
) -> Data:
    """Draws one expression, level by level from the root.

    Args:
        generator: where the randomness comes from; torch's own if None.
        max_depth: most operators on a path from the root to a digit; the digits lie one step further.
        min_depth: fewest operators on the longest such path.
        max_args: an operator has 2 to ``max_args`` arguments, each number equally likely.
        nest: probability that an argument is an operator itself, while ``max_depth`` allows it. Above
            ``2 / (2 + max_args)`` the size grows exponentially with ``max_depth``.

    Returns:
        Data with x ``(N,)`` int64 token ids, edge_index ``(2, N - 1)`` (argument, operator), y ``(1,)`` int64 the value
        of the root in 0..9, root_mask ``(N,)`` bool, depth ``(N,)`` int64 the number of edges to the root.

    Raises:
        ValueError: depths, ``max_args`` or ``nest`` out of range.
    """
    return random_expressions(1, generator, max_depth, min_depth, max_args, nest)[0]


def random_expressions(
    count: int,
    generator: torch.Generator | None = None,
    max_depth: int = 5,
    min_depth: int = 1,
    max_args: int = 5,
    nest: float = 0.25,
) -> list[Data]:
    """The same as :func:`random_expression` so many times, but quicker, as their values are found together.

    Example:
        >>> one, two = random_expressions(2, torch.Generator().manual_seed(3), max_depth=2)
        >>> to_text(one)
        '[MAX [SM 6 9 1 ] 5 [SM 6 2 8 ] ]'
    """
    if not 1 <= min_depth <= max_depth:
        raise ValueError(
            f"random_expression: min_depth={min_depth}, max_depth={max_depth}; expected 1 <= min_depth <= max_depth."
        )
    if max_args < 2 or not 0 <= nest <= 1:
        raise ValueError(
            f"random_expression: max_args={max_args}, nest={nest}; expected max_args >= 2 and nest in [0, 1]."
        )
    return _trees([_drawn(generator, max_depth, min_depth, max_args, nest) for _ in range(count)])


def _drawn(
    generator: torch.Generator | None, max_depth: int, min_depth: int, max_args: int, nest: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, parents and depths of an expression."""
    tokens, parents, depths = [], [torch.tensor([-1])], []
    operator, first = torch.tensor([True]), 0  # the root; ``first`` is the number of a level's first node
    for depth in range(max_depth + 1):
        tokens.append(_draw_tokens(operator, generator))
        depths.append(torch.full_like(tokens[-1], depth))
        if not operator.any():
            break
        nodes = first + operator.nonzero().flatten()
        parent = nodes.repeat_interleave(torch.randint(2, max_args + 1, nodes.shape, generator=generator))
        parents.append(parent)
        first += operator.numel()
        operator = torch.rand(parent.shape, generator=generator) < (nest if depth + 1 < max_depth else 0.0)
        if depth + 1 < min_depth and not operator.any():
            operator[torch.randint(parent.numel(), (1,), generator=generator)] = True
    return torch.cat(tokens), torch.cat(parents), torch.cat(depths)


def _draw_tokens(operator: Tensor, generator: torch.Generator | None) -> Tensor:
    digit = torch.randint(10, operator.shape, generator=generator)
    return torch.where(operator, 10 + torch.randint(len(OPERATORS), operator.shape, generator=generator), digit)


def _trees(drawn: list[tuple[Tensor, Tensor, Tensor]]) -> list[Data]:
    """The Data of expressions from their tokens, parents and depths; each root is node 0 and has parent -1."""
    if not drawn:
        return []
    x, _, depth = (torch.cat(parts) for parts in zip(*drawn))
    size = [len(tokens) for tokens, *_ in drawn]
    edges = [torch.stack([torch.arange(1, n), parent[1:]]) for n, (_, parent, _) in zip(size, drawn)]
    start = [0, *accumulate(size)]
    value = evaluate(x, torch.cat([edge_index + begin for edge_index, begin in zip(edges, start)], dim=1), depth)
    return [
        Data(x=x, edge_index=edge_index, y=y[:1].clone(), root_mask=depth == 0, depth=depth, num_nodes=len(x))
        for (x, _, depth), edge_index, y in zip(drawn, edges, value.split(size))
    ]


def evaluate(x: Tensor, edge_index: Tensor, depth: Tensor) -> Tensor:
    """The value of every node, deepest nodes first; all expressions of a batch at once.

    Shape:
        x ``(N,)`` token ids, edge_index ``(2, E)`` (argument, operator), depth ``(N,)`` -> ``(N,)`` int64 in 0..9.

    Example:
        >>> data = parse("[MED 8 1 4 2 ]")
        >>> evaluate(data.x, data.edge_index, data.depth)
        tensor([3, 8, 1, 4, 2])
    """
    child, operator = edge_index
    value = x.clone()
    for level in range(int(depth.max()) if depth.numel() else 0, 0, -1):
        here = depth[child] == level
        target, argument = operator[here], value[child[here]]
        order = torch.argsort(target * 10 + argument)  # by operator, and by value within one
        node, count = torch.unique_consecutive(target[order], return_counts=True)
        value[node] = _apply(x[node] - 10, argument[order], count)
    return value


def _apply(operator: Tensor, argument: Tensor, count: Tensor) -> Tensor:
    """Results of operators whose sorted arguments stand one group after the other, ``count`` in each."""
    end = count.cumsum(0)
    start = end - count
    total = torch.cat([argument.new_zeros(1), argument.cumsum(0)])
    median = (argument[start + (count - 1) // 2] + argument[start + count // 2]) // 2
    results = torch.stack([argument[end - 1], argument[start], median, (total[end] - total[start]) % 10])
    return results[operator, torch.arange(operator.numel())]


def parse(text: str) -> Data:
    """Reads the bracketed form, in which tokens are separated by blanks or brackets.

    Returns:
        Data as from :func:`random_expression`.

    Raises:
        ValueError: an unknown token, brackets that do not match, or an operator without arguments.

    Example:
        >>> to_text(parse("[MED 1[MIN 4 7] 0]"))
        '[MED 1 [MIN 4 7 ] 0 ]'
    """
    words = text.replace("[", " [").replace("]", " ] ").split()
    tokens, parents, depths, open_nodes = [], [], [], []
    for place, word in enumerate(words):
        if word == "]" and open_nodes and not words[place - 1].startswith("["):
            open_nodes.pop()
            continue
        name = word.removeprefix("[")
        if name not in TOKENS or (name in OPERATORS) != word.startswith("[") or (tokens and not open_nodes):
            raise ValueError(
                f"parse: {word!r} (word {place} of {text!r}) does not fit here; expected one expression of digits 0..9 "
                f"and operators [{', ['.join(OPERATORS)}, each closed by ] after at least one argument."
            )
        parents.append(open_nodes[-1] if open_nodes else -1)
        depths.append(len(open_nodes))
        if word.startswith("["):
            open_nodes.append(len(tokens))
        tokens.append(TOKENS.index(name))
    if open_nodes or not tokens:
        raise ValueError(f"parse: {text!r} ends with {len(open_nodes)} brackets open; expected one whole expression.")
    return _breadth_first(torch.tensor(tokens), torch.tensor(parents), torch.tensor(depths))


def _breadth_first(x: Tensor, parent: Tensor, depth: Tensor) -> Data:
    """Renumbers a tree given in the order of its text."""
    order = torch.argsort(depth, stable=True)
    number = torch.argsort(order)
    parent = parent[order]
    return _trees([(x[order], torch.where(parent < 0, parent, number[parent]), depth[order])])[0]


def to_text(data: Data) -> str:
    """The bracketed form of an expression, tokens separated by one blank; the arguments in the order of their numbers.

    Raises:
        ValueError: ``data`` holds several expressions, or none.
    """
    roots = data.root_mask.nonzero().flatten().tolist()
    if len(roots) != 1:
        raise ValueError(
            f"to_text: the data holds {len(roots)} expressions (roots {roots[:5]}); expected one. Take one with "
            "batch.get_example(k)."
        )
    arguments = [[] for _ in range(data.num_nodes)]
    for child, parent in sorted(data.edge_index.t().tolist(), reverse=True):
        arguments[parent].append(child)
    words, waiting, token = [], roots, data.x.tolist()
    while waiting:
        node = waiting.pop()
        if node < 0:
            words.append("]")
        elif token[node] < 10:
            words.append(TOKENS[token[node]])
        else:
            words.append("[" + TOKENS[token[node]])
            waiting += [-1, *arguments[node]]
    return " ".join(words)

"""Small networks of papers and terms, for the tests of layers over several types of nodes."""

import torch
from torch_geometric.data import HeteroData

PAP, PSP = ("paper", "PAP", "paper"), ("paper", "PSP", "paper")
TAP, PTA = ("term", "TAP", "paper"), ("paper", "PTA", "term")  # ends of different types


def typed(papers=5, terms=3, seed=0, edges=9):
    """Papers and terms, 3 and 2 features wide, with double edges, loops and nodes that nothing reaches."""
    torch.manual_seed(seed)
    data = HeteroData()
    data["paper"].x, data["term"].x = torch.randn(papers, 3).double(), torch.randn(terms, 2).double()
    count = {"paper": papers, "term": terms}
    for src, name, dst in (PAP, PSP, TAP, PTA):
        many = edges if count[src] and count[dst] else 0
        ends = [torch.randint(max(count[kind], 1), (many,)) for kind in (src, dst)]
        data[src, name, dst].edge_index = torch.stack(ends)
    return data

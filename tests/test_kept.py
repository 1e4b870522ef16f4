"""mpnn.kept: values by tensor, for as long as the tensor lives."""

import torch

from mpnn.kept import Kept, Unwritten, lasting


def test_values_are_found_by_identity_and_not_by_content():
    kept, one, other = Kept(), torch.ones(2), torch.ones(2)
    kept[one] = "one"
    assert kept.get(one) == "one" and kept.get(other) is None and kept.get(other, "none") == "none"
    kept[one] = "again"
    assert kept.get(one) == "again" and len(kept) == 1


def test_a_value_goes_when_its_tensor_goes():
    kept, one = Kept(), torch.ones(2)
    kept[one] = "first"
    kept[one] = "second"
    del one
    assert len(kept) == 0


def test_a_tensor_that_takes_a_dead_ones_place_does_not_take_its_value():
    kept = Kept()
    for value in range(100):  # ids are used again at once
        tensor = torch.ones(2)
        assert kept.get(tensor) is None
        kept[tensor] = value
        del tensor
    assert len(kept) == 0


def test_a_tensor_that_only_another_tensor_holds_keeps_its_value():
    kept, weight, grad = Kept(), torch.ones(2, requires_grad=True), torch.ones(2)
    weight.grad, kept[grad] = grad, "grad"
    del grad
    assert kept.get(weight.grad) == "grad"
    weight.grad = None
    assert len(kept) == 0


def test_a_value_goes_when_its_tensor_is_written_to():
    kept, one = Unwritten(), torch.ones(2)
    kept[one] = "first"
    assert kept.get(one, "none") == "first"
    one.add_(1)
    assert kept.get(one, "none") == "none"
    kept[one] = "second"
    assert kept.get(one) == "second" and len(kept) == 1


def test_of_a_tensor_made_in_inference_mode_nothing_is_kept_that_asks_for_its_version():
    kept = Unwritten()
    with torch.inference_mode():
        one = torch.ones(2)
    kept[one] = "one"
    assert kept.get(one, "none") == "none" and len(kept) == 0


def test_what_lasts_is_made_outside_of_inference_mode_and_without_gradients():
    weight = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        made = lasting(lambda: 2 * weight)
        assert torch.is_inference_mode_enabled()
    assert not made.is_inference() and not made.requires_grad
    assert lasting(lambda: 2 * weight).requires_grad

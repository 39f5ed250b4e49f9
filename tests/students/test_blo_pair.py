"""A pair keeps the weights of its best epoch."""

import torch
from small_bench import new_pair


def test_the_best_epoch_is_kept_and_the_first_of_equals() -> None:
    pair = new_pair()
    weights = []
    for epoch, loss in enumerate([0.5, 0.3, 0.3, 0.4]):
        with torch.no_grad():
            pair.detector.weight.fill_(epoch)
            pair.sam.weight.fill_(-epoch)
        pair.note(loss, epoch)
        weights.append(pair.detector.weight.clone())
    assert (float(pair.best_loss), int(pair.best_epoch)) == (0.3, 1)
    assert (pair.detector.weight == 3).all()
    pair.take_best()
    assert (pair.detector.weight == 1).all()
    assert (pair.sam.weight == -1).all()


def test_without_a_judged_epoch_the_weights_are_the_last() -> None:
    pair = new_pair()
    with torch.no_grad():
        pair.detector.weight.fill_(9.0)
    pair.take_best()
    assert (pair.detector.weight == 9).all()

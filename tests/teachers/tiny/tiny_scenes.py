"""The scenes that the tests of the tiny family share."""

WORLD, SEED, COUNT = "pretrain", 5, 3

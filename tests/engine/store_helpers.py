"""What the tests of the store share: a key, damage, an artifact."""

KEY = "ab" * 32


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x40
    path.write_bytes(data)


def commit_artifact(store, text="weights", *, redo=False):
    with store.scratch_folder() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights.bin").write_text(text)
        (folder / "other.txt").write_text("other")
        return store.commit_artifact(
            KEY, folder, stage="fit", metrics={"loss": 0.5}, seconds=1.5, about={}, redo=redo
        )

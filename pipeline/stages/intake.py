"""From COCO files to records: photos checked, roles given, weak labels cut to what the run may see.

Everything unusable is quarantined with a reason and leaves its neighbours alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from pipeline.data.coco import CocoFile, Finding, ImageEntry
from pipeline.data.coco_fields import MAX_ID
from pipeline.data.errors import BadInput, printable
from pipeline.data.records import Ontology, Record, Role, Source, WeakKind
from pipeline.data.weak import MaskShare, assign_roles, check_supports, simulate
from pipeline.report.documents import Quarantined, QuarantineFile
from pipeline.stages.identity import listed_as
from pipeline.stages.looking import Looking, Poison
from pipeline.stages.photos import Photo, digest_and_look, entry_of, listed_twice, notes_on
from pipeline.stages.sources import Split


@dataclass(frozen=True)
class Setting:
    """What is simulated: the weak kind, the share of human masks, the seed; whether masks are whole classes.

    `masked_only`: images of which not every object has a mask, a human's or an export's, are left out.
    """

    kind: WeakKind
    share: MaskShare
    seed: int
    semantic: bool
    masked_only: bool = False


@dataclass
class Intake:
    """The records of all splits, and the tally of what was left out (complete after iterating).

    `looking` is how the photos are read. `told` is called while the COCO files are, and may end that by an exception.
    `digests` are of the bytes that were read.
    """

    splits: Sequence[Split]
    setting: Setting
    looking: Looking = field(default_factory=Looking)
    told: Callable[[], None] = lambda: None
    images: int = 0
    annotations: int = 0
    notes: list[str] = field(default_factory=list)
    bad_images: dict[str, str] = field(default_factory=dict)
    bad_annotations: dict[str, str] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self._files: list[CocoFile] = []

    def __enter__(self) -> "Intake":
        problems = []
        for split in self.splits:
            try:
                file = CocoFile(split.json_file, semantic=self.setting.semantic, told=self.told)
                self._files.append(self._stack.enter_context(file))
            except BadInput as error:
                problems.append(str(error))
        if problems:
            self._stack.close()
            raise BadInput("\n".join(problems))
        self._check_classes()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def ontology(self) -> Ontology:
        """The classes of the train file."""
        return self._files[0].ontology

    def records(self) -> Iterator[tuple[Record, Record | None]]:
        """(visible record, full record if it was simulated: the hidden truth) of every usable image.

        Ids ascend within a split; train comes first.
        """
        self._try_suspects()
        for split, file in zip(self.splits, self._files, strict=True):
            self._count(split, file)
            photos = self._photos(split, file)
            if split.name == "val":
                ids = self._val_ids()
                yield from (
                    (replace(r, image_id=ids.get(r.image_id, r.image_id)), None)
                    for r in self._val(split, file, photos)
                )
            else:
                yield from self._train(split, file, photos)

    def sought(self) -> tuple[str, ...]:
        """Names of the classes to be found in weak images whose labels of this kind give no place."""
        file, kind = self._files[0], self.setting.kind
        asked = {WeakKind.NONE: frozenset(file.ontology.ids), WeakKind.CLASS: file.named}.get(kind, ())
        return tuple(c.name for c in file.ontology.categories if c.id in asked)

    def listed(self) -> list[list[str]]:
        """The file names of the images that each split lists."""
        return [[image.file_name for image in file.images] for file in self._files]

    def check(self) -> None:
        """BadInput for what ends `records` however good the photos are, reading as few annotations as that takes."""
        split, file, setting = self.splits[0], self._files[0], self.setting

        def read(image: ImageEntry) -> Record:
            return file.record(image, sha256="", split=split.name, role=Role.WEAK)[0]

        asked = setting.share.count(len(file.images))
        candidates = set(file.mask_candidates(unread=True)) if setting.masked_only or asked else set[int]()
        others = (image for image in file.images if image.id not in candidates)
        if setting.masked_only:
            if not candidates and not any(is_masked(i, read(i)) for i in others):
                raise BadInput(f"{split.json_file}: expected an image with masks, found none")
        elif asked > len(candidates):
            machine = {image.id for image in others if _has_machine_masks(read(image))}
            open_to = {image.id for image in file.images} - machine - file.damaged
            assign_roles(open_to, setting.share, seed=setting.seed, maskable=candidates - file.damaged)
        check_supports(map(read, file.images), setting.kind, source=str(split.json_file))

    def quarantine(self) -> QuarantineFile:
        """What was left out so far, with reasons."""
        return QuarantineFile(
            images=[Quarantined(entry=e, reason=r) for e, r in self.bad_images.items()],
            annotations=[Quarantined(entry=e, reason=r) for e, r in self.bad_annotations.items()],
        )

    def _check_classes(self) -> None:
        names = {c.id: c.name for c in self.ontology.categories}
        for split, file in zip(self.splits, self._files, strict=True):
            for c in file.ontology.categories:
                if names.get(c.id) != c.name:
                    known = repr(names[c.id]) if c.id in names else "nothing"
                    raise BadInput(
                        f"{split.json_file}: category {c.id} is {c.name!r}, but {known} in {self.splits[0].json_file}"
                    )

    def _count(self, split: Split, file: CocoFile) -> None:
        self.images += len(file.images)
        self.annotations += file.annotations
        self.images += len(split.refused)
        self.bad_images |= {f"{split.name} image ({printable(n)})": why for n, why in split.refused.items()}
        for finding in file.findings:
            images = finding.section == "images"
            self.images += images
            self.annotations += finding.section == "annotations"
            (self.bad_images if images else self.bad_annotations)[
                f"{split.name} {finding.section}[{finding.index}]"
            ] = str(finding)

    def _try_suspects(self) -> None:
        """Read the photos that may end the process before all others, so that no work is lost if one does."""
        if not self.looking.in_hand.suspects:
            return
        for split, file in zip(self.splits, self._files, strict=True):
            suspects = [i for i in file.images if _entry(split, i) in self.looking.in_hand.suspects]
            look = partial(digest_and_look, split, annotated=file.annotations > 0)
            for _ in self.looking.over(look, suspects, partial(_entry, split)):
                pass

    def _photos(self, split: Split, file: CocoFile) -> dict[int, Photo]:
        """Every photo read and decoded once; those that cannot be used go to quarantine."""
        found: dict[int, Photo] = {}
        remarks: dict[str, tuple[str, ...]] = {}
        twice = listed_twice(file.images)
        look = partial(digest_and_look, split, annotated=file.annotations > 0)
        for entry, image, seen in self.looking.over(look, file.images, partial(_entry, split)):
            if isinstance(seen, Poison):
                self.bad_images[entry] = seen.reason
                continue
            digest, photo = seen
            self.digests[listed_as(split.images, image.file_name)] = digest
            problem = photo if isinstance(photo, Finding) else twice.get(image.id)
            if problem is not None:
                self.bad_images[entry] = str(problem)
            elif isinstance(photo, Photo):
                found[image.id] = photo
                remarks[image.file_name] = photo.remarks
        self.notes += notes_on(remarks, what=f"{split.name} images")
        return found

    def _train(
        self, split: Split, file: CocoFile, photos: dict[int, Photo]
    ) -> Iterator[tuple[Record, Record | None]]:
        setting = self.setting
        usable = [image for image in file.images if image.id in photos]
        candidates = set(file.mask_candidates()) & photos.keys()
        read = partial(self._record, split, file, photos)
        machine = {i.id for i in usable if i.id not in candidates and _has_machine_masks(read(i, Role.WEAK))}
        # Masks are asked of the others; an image that lost an annotation has no full labels, so it does not count.
        asked = photos.keys() - machine - file.damaged
        if setting.masked_only:
            masked = [
                i
                for i in usable
                if i.id in candidates or (i.id not in file.damaged and is_masked(i, read(i, Role.WEAK)))
            ]
            if left := len(usable) - len(masked):
                self.notes.append(
                    f"{left} of {len(usable)} train images were left out: not all of their objects have masks"
                )
            usable, asked = masked, candidates
        roles = assign_roles(
            asked, setting.share, seed=setting.seed, maskable=candidates, last=file.empty_images()
        )
        weak = (image for image in usable if roles.get(image.id) is Role.WEAK)
        check_supports((read(i, Role.WEAK) for i in weak), setting.kind, source=str(split.json_file))
        for image in usable:
            role = roles.get(image.id, Role.WEAK)
            self.roles[role] = self.roles.get(role, 0) + 1
            full = read(image, role)
            if role is Role.WEAK:
                visible = simulate(full, setting.kind, setting.seed)
                given = tuple(i for i in full.instances if i.source is not Source.HUMAN)
                yield (
                    replace(visible, instances=visible.instances + given),
                    full if image.id in candidates else None,
                )
            else:
                yield full, None

    def _val(self, split: Split, file: CocoFile, photos: dict[int, Photo]) -> Iterator[Record]:
        lost = 0
        for image in file.images:
            if image.id not in photos:
                continue
            record = self._record(split, file, photos, image, Role.VAL)
            if image.id in file.damaged and not record.instances:
                lost += 1  # not empty: what it shows is not known
                continue
            self.roles[Role.VAL] = self.roles.get(Role.VAL, 0) + 1
            yield record
        if lost:
            self.notes.append(f"{lost} val images are not scored: none of their annotations is usable")

    def _record(
        self, split: Split, file: CocoFile, photos: dict[int, Photo], image: ImageEntry, role: Role
    ) -> Record:
        photo = photos[image.id]
        record, findings = file.record(
            image, sha256=photo.sha256, split=split.name, role=role, header=photo.header
        )
        for finding in findings:
            self.bad_annotations[f"{split.name} {finding.section}[{finding.index}] {finding.field}"] = str(
                finding
            )
        uri = f"{split.prefix}/{record.uri}" if split.prefix else record.uri
        return replace(record, uri=uri)

    def _val_ids(self) -> dict[int, int]:
        """Other ids for the val images, in the same order, if some are train ids too: else none."""
        train, val = ([image.id for image in file.images] for file in self._files)
        taken = set(train)
        if not taken & set(val):
            return {}
        shift = max(train) + 1 - min(val)
        if max(val) + shift <= MAX_ID:
            self.notes.append(f"val image ids overlap the train ids: {shift} was added to each")
            return {number: number + shift for number in val}
        self.notes.append(
            "val image ids overlap the train ids, which leave no room above: they were numbered anew"
        )
        return dict(zip(sorted(val), (n for n in count() if n not in taken), strict=False))


def _entry(split: Split, image: ImageEntry) -> str:
    return entry_of(split.name, image.id, image.file_name)


def _has_machine_masks(record: Record) -> bool:
    """Whether the file (say, our own export) holds pseudo-masks for the image already: no human mask is asked of it."""
    return any(i.source is not Source.HUMAN and i.rle is not None for i in record.instances)


def is_masked(image: ImageEntry, record: Record) -> bool:
    """Whether every object that is listed has a mask; an image without any must come from our own export."""
    return bool(record.instances or image.exported) and all(i.rle is not None for i in record.instances)

"""The catalog's SAM teachers, put together from settings and, once tuned, from an artifact."""

from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology
from teachers.answerer import Answerer
from teachers.class_texts import ClassTexts
from teachers.heads import TEACHER_JSON, TeacherFile, head_path, load_head, read_teacher
from teachers.identity import ModelIdentity, file_sha256, identity_of
from teachers.sam.load import load_sam
from teachers.sam.predictor import Head, SamPredictor
from teachers.sam.zoom import Zoom
from teachers.sam_teacher import SamTeacher
from teachers.settings import ClassAwareSettings, SamSettings
from teachers.text import load_text


def build_sam(settings: SamSettings, *, device: str) -> SamTeacher:
    """Zero-shot SAM; reads its checkpoint."""
    predictor = _predictor(settings, device)
    answerer = Answerer(predictor, {}, None, zoom=_zoom(settings, predictor))
    return SamTeacher(answerer, settings, identity_of(settings))


def build_class_aware_sam(
    settings: ClassAwareSettings, *, ontology: Ontology, device: str, artifact: Path | None
) -> SamTeacher:
    """The class-aware SAM, untuned (so zero-shot) or with the heads of an artifact.

    Raises BadInput, naming the file, for an artifact that is damaged or was tuned on other weights.
    """
    predictor = _predictor(settings, device)
    texts = _texts(settings, ontology, device) if settings.class_aware else None
    identity = identity_of(settings)
    heads: dict[str, Head] = {}
    digests: dict[str, str] = {}
    tuned = None
    if artifact is not None:
        tuned = _checked(artifact, identity)
        width = texts.width if texts else 0
        heads = {
            variant: load_head(predictor.sam, artifact, variant, settings=settings, text_width=width)
            for variant in tuned.variants
        }
        digests = {variant: file_sha256(head_path(artifact, variant)) for variant in tuned.variants}
    answerer = Answerer(predictor, heads, texts, zoom=_zoom(settings, predictor))
    return SamTeacher(answerer, settings, identity, tuned=tuned, heads=digests)


def _predictor(settings: SamSettings, device: str) -> SamPredictor:
    sam = load_sam(
        settings.sam, settings.checkpoint, sha256=settings.sha256, attention=settings.attention
    ).to(device)
    share = device != "cpu" if settings.share_chunks is None else settings.share_chunks
    return SamPredictor(
        sam,
        chunk=settings.chunk,
        embed_batch=settings.embed_batch,
        share=share,
        encoder_bf16=settings.encoder_bf16,
    )


def _zoom(settings: SamSettings, predictor: SamPredictor) -> Zoom:
    return Zoom(settings.zoom, predictor.sam.image_encoder.img_size)


def _texts(settings: ClassAwareSettings, ontology: Ontology, device: str) -> ClassTexts:
    encoder = load_text(
        settings.text, checkpoint=settings.text_checkpoint, sha256=settings.text_sha256, device=device
    )
    return ClassTexts(encoder, ontology)


def _checked(artifact: Path, identity: ModelIdentity) -> TeacherFile:
    found = read_teacher(artifact)
    for name, wanted in identity.model_dump().items():
        if (has := getattr(found.model, name)) != wanted:
            raise BadInput(f"teacher {artifact / TEACHER_JSON}: tuned with {name} {has}, expected {wanted}")
    return found

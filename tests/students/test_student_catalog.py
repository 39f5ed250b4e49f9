"""The catalog: names, settings and artifacts that do not fit are refused by name."""

import subprocess
import sys

import pytest
from little_pictures import ONTOLOGY, draw

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology
from students import catalog
from students.card import read_card, write_card
from students.mask2former import Mask2Former
from students.settings import Mask2FormerSettings
from teachers.catalog import ModelSpec
from teachers.tiny.listing import STUDENT, digest_of

OTHER = Ontology((Category(3, "disc"), Category(8, "bar")))


def spec(use="mask2former", **settings):
    return ModelSpec(name="student", use=use, settings=settings)


def load(wanted, *, ontology=ONTOLOGY, artifact=None):
    return catalog.load(wanted, ontology=ontology, device="cpu", artifact=artifact)


@pytest.fixture
def artifact(images, make_context):
    context = make_context("run")
    settings = Mask2FormerSettings(steps=1, batch_size=1)
    Mask2Former(settings, ontology=ONTOLOGY, device="cpu").fit([draw(1, images)], context)
    return context.out


def test_names_and_a_new_student():
    assert catalog.names() == ("mask2former", "blo_inst")
    student = load(spec(variant="r50", steps=7, from_scratch=True))
    assert isinstance(student, Mask2Former)
    assert (student.recipe.steps, student.recipe.size) == (7, 1024)


def test_an_artifact_is_opened_with_its_own_classes(artifact):
    for student in (load(spec(), artifact=artifact), catalog.load_artifact(artifact, device="cpu")):
        assert isinstance(student, Mask2Former)
        assert student.ontology == ONTOLOGY


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (spec(use="mask2fromer"), "models.student.use: no student 'mask2fromer'; nearest: mask2former"),
        (spec(use="zzz"), "models.student.use: no student 'zzz'; nearest: mask2former"),
        (spec(variant="r51"), r"models\.student\.variant: Input should be"),
        (spec(queries=3), r"models\.student\.queries: Extra"),
        (spec(variant="swin_t"), r"models\.student\.weights: Value error, swin_t needs the safetensors file"),
    ],
)
def test_what_the_catalog_does_not_know_is_refused(wanted, message):
    with pytest.raises(BadInput, match=message):
        load(wanted)


def test_an_artifact_of_other_classes_or_another_kind_is_refused(artifact):
    with pytest.raises(
        BadInput, match=r"knows the classes \[3 disc, 7 bar\], the data set has \[3 disc, 8 bar\]"
    ):
        load(spec(), ontology=OTHER, artifact=artifact)
    card = read_card(artifact)
    write_card(card.model_copy(update={"use": "other"}), artifact)
    with pytest.raises(BadInput, match="expected a student of kind 'mask2former', found 'other'"):
        load(spec(), artifact=artifact)
    with pytest.raises(BadInput, match="no student 'other'"):
        catalog.load_artifact(artifact, device="cpu")


def test_identity_is_the_content_of_the_first_weights(tmp_path):
    assert catalog.identity(spec(from_scratch=True)) == {}
    assert catalog.identity(spec()) == {"weights": digest_of(STUDENT)}
    digests = []
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
        digests.append(catalog.identity(spec(weights=str(tmp_path / name)))["weights"])
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(BadInput, match="no such file"):
        catalog.identity(spec(weights=str(tmp_path / "none")))


def test_checking_a_config_imports_no_torch():
    code = "import sys, students.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

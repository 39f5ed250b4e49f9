"""The detector that AM-SAM tunes on the boxes of the few masks, by the code that BLO-Inst's student begins with."""

from dataclasses import dataclass

from torch import nn

from pipeline.data.records import Ontology
from teachers.aligned_detector import AlignedDetector
from teachers.am_sam_boxes import Find, asked
from teachers.am_sam_settings import AmSamSettings
from teachers.detector import DetectorNetwork
from teachers.detector_weights import new_detector
from teachers.detectors import find
from teachers.fit_detector import Shares, detector_phase, first_pixels
from teachers.fitted_detector import DetectorFacts
from teachers.identity import sam_digest
from teachers.phases import Phase
from teachers.pool import Loader
from teachers.settings import DETECTOR_BOX, DETECTOR_CLS, DETECTOR_MET, DETECTOR_OBJ


@dataclass(frozen=True)
class TunedDetector:
    """A detector and what it is tuned with; the loader's images are seen through windows of their own at each step."""

    network: DetectorNetwork
    settings: AmSamSettings
    loader: Loader
    ontology: Ontology
    device: str

    @classmethod
    def new(
        cls, settings: AmSamSettings, loader: Loader, *, ontology: Ontology, device: str
    ) -> "TunedDetector":
        """With its first weights; what is random of them is torch's to draw. BadInput as of `new_detector`."""
        network = new_detector(
            settings.detector,
            len(ontology.ids),
            focal=find(settings.detector).focal,
            weights=settings.detector_weights,
            sha256=settings.detector_sha256,
        )
        nn.Module.to(network, device).eval()  # batch norms keep their statistics
        network.meet(first_pixels(loader, DETECTOR_MET).to(device))
        return cls(network, settings, loader, ontology, device)

    def phase(self) -> Phase:
        """Its tuning."""
        return detector_phase(
            self.network,
            self.loader,
            Shares(DETECTOR_BOX, DETECTOR_OBJ, DETECTOR_CLS),
            epochs=self.settings.detector_epochs,
            lr=self.settings.detector_lr,
            device=self.device,
        )

    def facts(self) -> DetectorFacts:
        """What the artifact says of it."""
        return DetectorFacts(
            detector=self.settings.detector,
            side=self.loader.size,
            categories=self.ontology.categories,
            sam_sha256=sam_digest(self.settings),
        )

    def find(self) -> Find:
        """What it finds as it is now."""
        return asked(AlignedDetector(self.network, self.facts(), ontology=self.ontology, device=self.device))

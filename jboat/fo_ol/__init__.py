"""First-order methods, which replace both chains by one operator."""

from jboat.fo_ol.alto import ALTO
from jboat.fo_ol.first_order import FirstOrder, FirstOrderStep
from jboat.fo_ol.gaffo import GAFFO
from jboat.fo_ol.meso import MESO
from jboat.fo_ol.pgdo import PGDO
from jboat.fo_ol.vfo import VFO
from jboat.fo_ol.vso import VSO

__all__ = ["ALTO", "GAFFO", "MESO", "PGDO", "VFO", "VSO", "FirstOrder", "FirstOrderStep"]

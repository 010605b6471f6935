"""Stochastic single-loop methods: y, v, which solves the linear system, and x move a step each in every outer step."""

from jboat.sl_ol.amigo import AMIGO
from jboat.sl_ol.f2sa import F2SA
from jboat.sl_ol.masoba import MASOBA
from jboat.sl_ol.mrbo import MRBO
from jboat.sl_ol.saba import SABA
from jboat.sl_ol.single_loop import SingleLoop
from jboat.sl_ol.soba import SOBA
from jboat.sl_ol.srba import SRBA
from jboat.sl_ol.stocbio import STOCBIO
from jboat.sl_ol.sustain import SUSTAIN

__all__ = ["AMIGO", "F2SA", "MASOBA", "MRBO", "SABA", "SOBA", "SRBA", "STOCBIO", "SUSTAIN", "SingleLoop"]

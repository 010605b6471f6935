"""Hypergradients: how the upper objective changes with x through the lower level."""

from jboat.na_ol.cg import CG
from jboat.na_ol.fd import FD
from jboat.na_ol.foa import FOA
from jboat.na_ol.hyper_gradient import HyperGradient, HyperGradientOperator
from jboat.na_ol.iad import IAD
from jboat.na_ol.iga import IGA
from jboat.na_ol.implicit import ImplicitHyperGradient
from jboat.na_ol.ns import NS
from jboat.na_ol.nys import NYS
from jboat.na_ol.ptt import PTT
from jboat.na_ol.rad import RAD
from jboat.na_ol.rgt import RGT
from jboat.na_ol.sequential_hg import (
    HyperGradientRules,
    SequentialHG,
    makes_functional_na_operation,
    validate_and_adjust_order,
)
from jboat.na_ol.terminal import Terminal, UpperGradients

__all__ = [
    "CG",
    "FD",
    "FOA",
    "IAD",
    "IGA",
    "NS",
    "NYS",
    "PTT",
    "RAD",
    "RGT",
    "HyperGradient",
    "HyperGradientOperator",
    "HyperGradientRules",
    "ImplicitHyperGradient",
    "SequentialHG",
    "Terminal",
    "UpperGradients",
    "makes_functional_na_operation",
    "validate_and_adjust_order",
]

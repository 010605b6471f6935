"""A chain that makes no sense is refused with the few that are near, not with all."""

from jboat import registry
import pytest


@pytest.mark.parametrize(
    ("given", "near"),
    [
        (["RAD", "CG"], {"RAD", "CG"}),
        (["FOA"], {"FOA+IAD"}),
        (["FOA", "CG"], {"CG"}),
        (["PTT", "RGT"], {"PTT+RGT+RAD", "PTT+RGT+CG"}),
        (["IAD", "RAD", "RGT"], {"RGT+RAD", "RGT+IAD"}),
    ],
)
def test_hypergradients(given, near):
    with pytest.raises(ValueError, match="is not a chain; valid chains are ") as caught:
        registry.order_na(given)
    listed, _, rest = str(caught.value).partition("valid chains are ")[2].partition(", among others")
    chains = listed.split(", ")
    assert near <= {*chains}
    assert len(chains) <= 5
    assert {tuple(chain.split("+")) for chain in chains} <= {*registry.na_chains()}
    assert "ops --chains" in rest


def test_lower_level():
    with pytest.raises(ValueError, match=r"valid chains are GDA\+NGD, GDA\+DM, "):
        registry.order_gm(["GDA"])

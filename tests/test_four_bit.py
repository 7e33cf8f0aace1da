"""Weights in 4 bit are refused in one line where they cannot be had."""

import pytest
import torch

from uncertainty import four_bit
from uncertainty.errors import InputError


def test_a_processor_without_a_gpu_is_refused():
    with pytest.raises(InputError, match="need a GPU and the device is cpu; load in bfloat16 instead"):
        four_bit.four_bit_options(torch.bfloat16, torch.device("cpu"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(four_bit, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="need bitsandbytes, which is not installed"):
        four_bit.four_bit_options(torch.bfloat16, torch.device("cuda"))


def test_the_options_are_those_of_the_method(monkeypatch):
    monkeypatch.setattr(four_bit, "find_spec", lambda name: object())
    options = four_bit.four_bit_options(torch.bfloat16, torch.device("cuda:1"))
    assert options["device_map"] == {"": torch.device("cuda:1")}
    told = options["quantization_config"]
    assert (told.load_in_4bit, told.bnb_4bit_quant_type, told.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert told.bnb_4bit_compute_dtype == torch.bfloat16

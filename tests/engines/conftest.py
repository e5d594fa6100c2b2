"""What the tests of engines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chat_server import Server
from encoded_prompts import encode

from modgap.core.problem import Problem
from modgap.datasets import pgps9k
from modgap.datasets.synthetic.write import write_dataset
from modgap.models.encode import EncodedPrompt
from modgap.models.load import load_policy
from modgap.models.policy import Policy


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("problems")
    write_dataset(folder, 0, 4, seed=5, workers=1)
    return list(pgps9k.read(folder))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("tiny", device="cpu")


@pytest.fixture(scope="module")
def prompts(policy: Policy, problems: list[Problem]) -> list[EncodedPrompt]:
    return encode(policy, problems[:2])

import pytest
from served import Served, of_images, of_texts


@pytest.fixture(scope="session")
def served_drawings() -> Served:
    return of_images()


@pytest.fixture(scope="session")
def served_texts() -> Served:
    return of_texts()

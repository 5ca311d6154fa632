"""Make benchmarks/data/label_embeddings.safetensors, by which plans name classes in words.

    python benchmarks/label_embeddings.py

all-MiniLM-L6-v2's embeddings (Reimers & Gurevych 2019, arXiv 1908.10084; extra `encoder`) of the
class names of digits, in words, and of Fashion-MNIST: float32 [10, 384] for each data set, whose
row i is class i. Another machine's may differ in their last bits; plans take those of the file.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from gppdm_pipeline.algorithm.condition.labels import ConditionConfig, label_vectors

FILE = Path(__file__).parent / "data" / "label_embeddings.safetensors"
NAMES = {
    "digits": "zero one two three four five six seven eight nine".split(),
    "fashion_mnist": (
        "T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot".split(",")
    ),
}


def main() -> None:
    """Write the file."""
    arrays = {}
    for data_set, names in NAMES.items():
        config = ConditionConfig(embeddings="encoder", class_names=tuple(names))
        arrays[data_set] = label_vectors(config, range(len(names))).float()
    FILE.parent.mkdir(exist_ok=True)
    save_file(arrays, FILE)


if __name__ == "__main__":
    main()

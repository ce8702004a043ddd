"""The table [data]: what is learned, from which columns or files, and how it is spread over the devices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spfl.config.names import TaskName
from spfl.config.section import Section

READING = (
    "name", "task", "config", "split", "test_fraction", "image_column", "input_columns", "label_column",
    "client_column", "sequence_length", "encode", "categories",
)  # fmt: skip


class DataConfig(Section):
    """What is learned, and how it is spread over the devices."""

    name: str = Field(
        "digits",
        description="The dataset: digits, breast_cancer, wine, diabetes, sentences, cifar10, mnist, fashion_mnist, a "
        "Hugging Face id (owner/name), or the path of a folder or file.",
    )
    task: TaskName | None = Field(
        None,
        description="What is learned: classification, multi_label, regression or next_token; as the data have it when "
        "absent, which is classification for files.",
    )
    config: str | None = Field(
        None, max_length=200, description="Configuration (subset) of a Hugging Face dataset; its own when absent."
    )
    split: tuple[str, ...] | None = Field(
        None,
        description="Names of the training part and of the test part, or of the training part alone; train, and test "
        "or validation, when absent.",
    )
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the samples, in (0, 1), that is held out as the test part where the data have none.",
    )
    image_column: str | None = Field(
        None, max_length=200, description="Column of the images; img or image when absent."
    )
    input_columns: tuple[str, ...] | None = Field(
        None, description="Columns of a table that are inputs; all that are no label and no client when absent."
    )
    label_column: str | tuple[str, ...] | None = Field(
        None,
        description="Column of the labels, or several (regression, multi_label); label, labels, fine_label or target "
        "when absent.",
    )
    client_column: str | None = Field(
        None, max_length=200, description="Column that says whose a sample is (partition = column)."
    )
    sequence_length: int = Field(
        32, ge=1, le=10**5, description="Characters that a text is cut into for task = next_token."
    )
    encode: Literal["one_hot", "codes"] = Field(
        "one_hot",
        description="How columns of words in a table become numbers: a column of 0 and 1 for each word (one_hot), or "
        "the word's place among the sorted ones, from 0 (codes).",
    )
    categories: tuple[str, ...] | None = Field(
        None,
        description="Words of columns of a table, each as COLUMN=WORD, in this order; those of the training part, "
        "sorted, when absent.",
    )
    normalise: Literal["moments", "none"] = Field(
        "moments",
        description="How numbers are normalised: by the mean and the deviation of each channel or column over the "
        "training part (moments), or not at all (none); mean and std give fixed numbers.",
    )
    source: Literal["partition", "node"] = Field(
        "partition",
        description="Whose the data are: one data set that is dealt to the devices (partition), or each node's own, "
        "which stay there (node; docs/deploy.md).",
    )
    shape: tuple[int, ...] | None = Field(
        None,
        description="Shape of every node's inputs (source = node): channels, height and width of images, columns of a "
        "table, once words have become columns, or length of a sequence.",
    )
    dtype: Literal["uint8", "float32", "int64"] | None = Field(
        None,
        description="Type of every node's inputs (source = node): uint8 (images), float32, or int64 (indices); when "
        "absent uint8 for a shape of three numbers, int64 for task = next_token, else float32.",
    )
    vocabulary: int | None = Field(
        None,
        ge=2,
        le=10**7,
        description="Number of indices that inputs may be (source = node, dtype = int64); classes for next_token.",
    )
    classes: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="Number of classes, of targets (regression) or of tokens (next_token) (source = node).",
    )
    class_names: tuple[str, ...] | None = Field(
        None,
        description="Names of nodes' class folders or words of their labels, or the characters of their texts, in the "
        "order of the labels; 0, 1, ... when absent.",
    )
    mean: tuple[float, ...] | None = Field(
        None,
        description="Fixed mean of each channel (grey levels from 0 to 255) or column, by which inputs are normalised; "
        "found from the training part when absent, or from sums that nodes tell.",
    )
    std: tuple[float, ...] | None = Field(
        None, description="Fixed standard deviation of each channel or column; goes with mean."
    )
    devices: int = Field(20, ge=1, le=10**9, description="Number of devices K in the cell.")
    cohort_size: int | None = Field(
        None, ge=1, le=10**6, description="Devices drawn at random to take part in a round; all of them when absent."
    )
    partition: Literal["iid", "dirichlet", "shards", "sampled", "column", "files"] = Field(
        "dirichlet",
        description="How samples are spread over devices: iid, dirichlet (by class), shards (sorted by label), sampled,"
        " where each device draws images by a Dirichlet mixture of its own when it is needed, for populations larger "
        "than the data, or as they are: column (a device is a value of client_column) and files (a device is a file).",
    )
    dirichlet_alpha: float = Field(
        0.3,
        ge=1e-6,
        le=1e6,
        description="Concentration of the Dirichlet draw, without unit: small values give each device few classes.",
    )
    shards_per_device: int = Field(
        2, ge=1, le=10**6, description="Label-sorted shards that a device gets (partition = shards)."
    )
    samples_per_device: int = Field(100, ge=1, le=10**6, description="Images that a device has (partition = sampled).")
    min_samples: int = Field(
        8,
        ge=1,
        le=10**6,
        description="Fewest samples a device may hold; the Dirichlet draw is repeated until all have that many.",
    )
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training set, in [0, 1), that is held out and evaluated on in place of the test "
        "set; tune on it.",
    )
    pool: int = Field(
        1,
        ge=1,
        le=8,
        description="Images are averaged over blocks of this many pixels squared, for quick studies; 1 leaves them as"
        " they are.",
    )

    @model_validator(mode="after")
    def _categories_are_words_of_columns(self) -> DataConfig:
        for entry in self.categories or ():
            if not entry.partition("=")[0] or "=" not in entry:
                raise ValueError(f"categories must each be COLUMN=WORD, got {entry!r}")
        if len(set(self.categories or ())) < len(self.categories or ()):
            raise ValueError(f"categories must be different, got {list(self.categories or ())}")
        return self

    @model_validator(mode="after")
    def _source_fits(self) -> DataConfig:
        if self.source == "node":
            return self._node_data_told()
        for key in ("shape", "dtype", "vocabulary", "classes", "class_names"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} has an effect with source = node only, got {getattr(self, key)}")
        if self.split is not None and not 1 <= len(set(self.split)) == len(self.split) <= 2:
            raise ValueError(f"split must be one name, or two different ones, got {list(self.split)}")
        if self.partition == "files" and self.client_column is not None:
            raise ValueError(f"client_column must be absent with partition = files, got {self.client_column!r}")
        self._check_moments()
        return self

    def _check_moments(self) -> None:
        """Raises ValueError unless mean and std are as many numbers, one a channel."""
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together")
        if self.mean is not None and self.normalise != "moments":
            raise ValueError(f"normalise must be absent with mean and std, got {self.normalise}")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must be as many, got {len(self.mean)} and {len(self.std)}")
        if self.std is not None and min(self.std, default=0.0) <= 0:
            raise ValueError(f"std must be numbers > 0, got {list(self.std)}")

    def reading(self) -> DataConfig:
        """The keys that say what is read, and how; all others as they are by default. For memories of what was read."""
        keys = {key: getattr(self, key) for key in READING}
        return DataConfig(**keys, **({"partition": "files"} if self.partition == "files" else {}))

    @property
    def input_type(self) -> str:
        """The type of nodes' inputs: as told, else by their shape and the task."""
        if self.dtype is not None:
            return self.dtype
        if self.task == "next_token":
            return "int64"
        return "uint8" if len(self.shape or ()) == 3 else "float32"

    def _node_data_told(self) -> DataConfig:
        if self.shape is None or self.classes is None:
            raise ValueError("source = node needs shape (such as channels, height, width) and classes")
        if min(self.shape, default=0) < 1:
            raise ValueError(f"shape must be numbers >= 1, got {list(self.shape)}")
        if self.class_names is not None and len(set(self.class_names)) != self.classes:
            raise ValueError(f"class_names must be {self.classes} different names, got {list(self.class_names)}")
        self._check_node_task(self.task or "classification")
        self._check_node_moments()
        if self.pool > 1:
            raise ValueError(f"pool must be 1 with source = node, got {self.pool}")
        default = type(self).model_fields
        for key in ("config", "split", "client_column", "test_fraction"):
            if getattr(self, key) != default[key].default:
                raise ValueError(f"{key} has an effect with source = partition only, got {getattr(self, key)!r}")
        return self

    def _check_node_task(self, task: TaskName) -> None:
        kind, classes = self.input_type, self.classes or 0
        if task == "classification" and classes < 2:
            raise ValueError(f"classes must be at least 2 with task = classification, got {classes}")
        if task in ("regression", "multi_label") and self.class_names is not None:
            raise ValueError(f"class_names must be absent with task = {task}, got {list(self.class_names)}")
        if kind == "uint8" and len(self.shape or ()) != 3:
            raise ValueError(f"shape must be three numbers with dtype = uint8, got {list(self.shape or ())}")
        if task == "next_token" and kind != "int64":
            raise ValueError(f"dtype must be int64 with task = next_token, got {kind}")
        needed = kind == "int64" and task != "next_token"
        if needed != (self.vocabulary is not None):
            rule = "given with dtype = int64" if needed else "absent but for dtype = int64, and with task = next_token"
            raise ValueError(f"vocabulary must be {rule}, got {self.vocabulary}")

    def _check_node_moments(self) -> None:
        self._check_moments()
        if self.mean is None or self.std is None:
            return
        if self.input_type == "int64":
            raise ValueError(f"mean and std must be absent where inputs are indices, got {list(self.mean)}")
        least, most = ((0.0, 1e-6), 255.0) if self.input_type == "uint8" else ((-1e300, 1e-300), 1e300)
        for key, values, low in (("mean", self.mean, least[0]), ("std", self.std, least[1])):
            if len(values) != (self.shape or (0,))[0] or not all(low <= v <= most for v in values):
                raise ValueError(
                    f"{key} must be {(self.shape or (0,))[0]} numbers in {low:g}..{most:g}, got {list(values)}"
                )

"""Where each data set comes from: one table of names, files, counts, sizes and licences.

Numbers are those that the authors publish. ``None`` stands for one that nobody published or that could not be checked;
what is found at the first preparation is then written down and compared ever after (``lock.py``, ``downloads.py``). A
checksum stands here only of a file that was seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from comem_lmms.errors import UserError

_GCS = "https://storage.googleapis.com/gresearch/open-vision-language"
# The short hash is the one that is known of this commit; raw.githubusercontent.com takes it as it takes a full one.
_COMEM = "https://raw.githubusercontent.com/WenyiWU0111/CoMEM/65de858/CoMEM-inference"
_OKVQA = "https://okvqa.allenai.org/static/data"
MB, GB = 10**6, 10**9

Kind = Literal["hub", "infoseek", "infoseek_translated", "oven", "viquae", "okvqa_train", "evqa_train"]


@dataclass(frozen=True)
class File:
    """One file to download.

    Attributes:
        name: path below the folder of downloads.
        url: where it is; empty for a file of a Hub repository.
        repository, path, revision: of a file of a data set repository on the Hub.
        size: bytes, exactly; checked.
        about: bytes, as published in round numbers; for tables only.
        sha256: of the content; where it is None, that of the first download is kept and compared.
        rows: documents in it.
        optional: whether data can be prepared without it.
    """

    name: str
    url: str = ""
    repository: str = ""
    path: str = ""
    revision: str | None = None
    size: int | None = None
    about: int | None = None
    sha256: str | None = None
    rows: int | None = None
    optional: bool = False

    @property
    def cost(self) -> int:
        """Bytes to download, as well as they are known."""
        return self.size or self.about or 0


@dataclass(frozen=True)
class Images:
    """Where the images of a data set are.

    Attributes:
        collection: name of the index of found files; data sets of one collection share a folder of images.
        where: what folder ``--images`` takes, in words.
        by: whether documents name an image by its file name or by that without the ending.
        archives: tar files by the name that ``--images`` takes for them.
        automatic: whether the archives are fetched without being asked for.
        url: of a single image, with ``{}`` for its name, where they are fetched one by one.
        by_hand: bytes of all of them, as published in round numbers, where the user downloads them.
    """

    collection: str
    where: str
    by: Literal["stem", "name"] = "stem"
    archives: Mapping[str, File] = field(default_factory=dict)
    automatic: bool = False
    url: str | None = None
    by_hand: int | None = None

    def file(self, key: str) -> File | None:
        """A single image, below the folder of the collection's images, where they are fetched one by one."""
        return File(f"{key}{PurePosixPath(self.url).suffix}", self.url.format(key)) if self.url else None


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        kind: how its files are read (``rows.py``), or ``hub`` where lmms-eval loads it from the Hub.
        counts: documents of each split; None where none is published.
        id_column: what names a document.
        hub, revision: data set repository and its commit; None for the newest, whose commit is then written down.
        size: bytes of the whole repository.
        files: what is read, in the order in which the reader wants it.
        titles: OVEN's file of titles, for `comem-lmms link build`.
    """

    name: str
    kind: Kind
    counts: Mapping[str, int | None]
    licence: str
    id_column: str = "data_id"
    hub: str | None = None
    revision: str | None = None
    size: int = 0
    files: tuple[File, ...] = ()
    titles: File | None = None
    images: Images | None = None

    @property
    def command(self) -> str:
        """What to run to prepare it, the first time."""
        if self.images is None or self.images.automatic:
            return self.again
        if self.images.url:
            return f"{self.again} --images FOLDER (or --contact MAIL)"
        archive = next(iter(self.images.archives), None)
        return f"{self.again} --images {f'{archive} (or FOLDER)' if archive else 'FOLDER'}"

    @property
    def again(self) -> str:
        """What to run where its images are known."""
        return f"comem-lmms data prepare {self.name}"

    def count(self, split: str, found: int, remedy: str) -> None:
        """Refuses a split that has another number of documents than its authors publish; says what to do then.

        Raises:
            UserError: it has.
        """
        if split not in self.counts:
            raise UserError(f"{self.name} has no split {split!r}; it has {', '.join(self.counts)}")
        expected = self.counts[split]
        if expected is not None and found != expected:
            raise UserError(
                f"{self.name}, split {split}: {found:,} documents, but {expected:,} are published; {remedy}"
            )


def find(name: str, sources: Mapping[str, Source] | None = None) -> Source:
    """The data set of a name.

    Raises:
        UserError: there is none.
    """
    sources = SOURCES if sources is None else sources
    if name not in sources:
        raise UserError(f"there is no data set {name!r}; there are {', '.join(sources)}")
    return sources[name]


_OVEN_IMAGES = Images(
    collection="oven",
    where="OVEN's images, the extracted shard01 to shard08 of ychenNLP/oven on the Hub (gated: accept its terms there "
    "and download with your own token), any depth of folders",
    by_hand=261 * GB,
)
_INFOSEEK_IMAGES = Images(
    collection="oven",
    where=_OVEN_IMAGES.where + "; or --images m2kr for InfoSeek's validation images from BByrneLab/M2KR_Images",
    archives={
        "m2kr": File(
            name="m2kr/infoseek_val_images.tar",
            repository="BByrneLab/M2KR_Images",
            path="Infoseek/infoseek_val_images.tar",
            about=8_960 * MB,
        )
    },
)
_QTYPE = File("infoseek/infoseek_val_qtype.jsonl", f"{_GCS}/infoseek/infoseek_val_qtype.jsonl", optional=True)
_PAGES = File(
    "infoseek/infoseek_val_withkb.jsonl", f"{_GCS}/infoseek/infoseek_val_withkb.jsonl", about=21 * MB, optional=True
)
_PAGES_TRAIN = File(
    "infoseek/infoseek_train_withkb.jsonl", f"{_GCS}/infoseek/infoseek_train_withkb.jsonl", about=84 * MB, optional=True
)
_PAPER = File(
    "comem/infoseek_val.jsonl",
    f"{_COMEM}/infoseek/val_dataset/infoseek_val.jsonl",
    size=1_457_579,
    sha256="9bf92d2be0e3f5156b347f583eb5b1205b4de75df673367cfbef5b6e3b1bc35c",
    rows=4_708,
)
_TITLES = File("oven/Wiki6M_ver_1_0_title_only.jsonl", f"{_GCS}/Wiki6M_ver_1_0_title_only.jsonl", about=419 * MB)
_APACHE = "annotations Apache-2.0, images of 14 data sets under their own terms"
_COMEM_LICENCE = f"{_APACHE}; the selection is that of the CoMEM authors"


def _translated(name: str, language: str, rows: int = 4_708, **known: object) -> Source:
    file = f"infoseek_val_{language}.jsonl"
    translation = File(f"comem/{file}", f"{_COMEM}/infoseek/val_dataset/{file}", rows=rows, **known)  # type: ignore[arg-type]
    return Source(
        name=name,
        kind="infoseek_translated",
        counts={"validation": 4_708},
        licence=f"{_COMEM_LICENCE}, as are the translations (GPT-4o-mini)",
        files=(_PAPER, translation, _QTYPE, _PAGES),
        images=_INFOSEEK_IMAGES,
    )


_ALL = (
    Source(
        name="infoseek",
        kind="infoseek",
        counts={"validation": 73_620},  # InfoSeek's paper, Table 7
        licence=_APACHE,
        files=(
            File("infoseek/infoseek_val.jsonl", f"{_GCS}/infoseek/infoseek_val.jsonl", about=21 * MB),
            _QTYPE,
            _PAGES,
        ),
        images=_INFOSEEK_IMAGES,
    ),
    Source(
        name="infoseek_paper",
        kind="infoseek",
        counts={"validation": 4_708},
        licence=_COMEM_LICENCE,
        files=(_PAPER, _QTYPE, _PAGES),
        images=_INFOSEEK_IMAGES,
    ),
    _translated(
        "infoseek_es",
        "spanish",
        size=1_515_307,
        sha256="82a3dbb2a237773452557a54547682e58c66e2f7cd6fd92eef81cd8723ae8235",
    ),
    _translated("infoseek_pt", "portuguese", rows=4_706),  # two were not translated
    _translated("infoseek_zh", "chinese"),
    _translated("infoseek_ru", "russian"),
    _translated("infoseek_bg", "bulgarian"),
    Source(
        name="infoseek_train",
        kind="infoseek",
        counts={"train": 934_048},  # InfoSeek's paper, Table 7
        licence=_APACHE,
        files=(
            File("infoseek/infoseek_train.jsonl", f"{_GCS}/infoseek/infoseek_train.jsonl", about=245 * MB),
            _PAGES_TRAIN,
        ),
        images=_OVEN_IMAGES,
    ),
    Source(
        name="oven",
        kind="oven",
        counts={"query": 3_291, "entity": None},
        licence=_APACHE,
        files=(
            File("oven/oven_query_val.jsonl", f"{_GCS}/oven/oven_query_val.jsonl", about=644_000),
            File("oven/oven_entity_val.jsonl", f"{_GCS}/oven/oven_entity_val.jsonl", about=26 * MB),
        ),
        titles=_TITLES,
        images=_OVEN_IMAGES,
    ),
    Source(
        name="oven_paper",
        kind="oven",
        counts={"query": 3_291, "entity": 3_000},
        licence=_COMEM_LICENCE,
        files=(
            File(
                "comem/oven_query_val.jsonl",
                f"{_COMEM}/OVEN/oven_query_val.jsonl",
                size=658_532,
                sha256="fc0c72fbda3a1a40f1b1fb31d06817b12d00591ba817264e77045d00090efaff",
            ),
            File(
                "comem/oven_entity_val_3k.jsonl",
                f"{_COMEM}/OVEN/oven_entity_val_3k.jsonl",
                size=629_471,
                sha256="0ab04a9512c43534c0ec092e06d8778b6c8aa2bc55e7aa69a3c627d4789f44f5",
            ),
        ),
        titles=_TITLES,
        images=_OVEN_IMAGES,
    ),
    Source(
        name="viquae",
        kind="viquae",
        counts={"test": 1_257},
        licence="CC BY 4.0; images of Wikimedia Commons under their own licences",
        id_column="id",
        files=(File("viquae/test.jsonl", repository="PaulLerner/viquae_dataset", path="test.jsonl"),),
        images=Images(
            collection="viquae",
            where="the extracted images.tar.gz of PaulLerner/viquae_images",
            by="name",
            archives={"hub": File("viquae/images.tar.gz", repository="PaulLerner/viquae_images", path="images.tar.gz")},
            automatic=True,
        ),
    ),
    Source(
        name="okvqa_train",
        kind="okvqa_train",
        counts={"train": 9_009},
        licence="questions CC BY 4.0 as of the VQA consortium; COCO images under Flickr's terms",
        id_column="question_id",
        files=(
            File(
                "okvqa/OpenEnded_mscoco_train2014_questions.json.zip",
                f"{_OKVQA}/OpenEnded_mscoco_train2014_questions.json.zip",
            ),
            File("okvqa/mscoco_train2014_annotations.json.zip", f"{_OKVQA}/mscoco_train2014_annotations.json.zip"),
        ),
        images=Images(
            collection="coco",
            where="COCO's train2014 images",
            url="http://images.cocodataset.org/train2014/{}.jpg",
        ),
    ),
    Source(
        name="evqa_train",
        kind="evqa_train",
        counts={"train": None},
        licence="see google-research/encyclopedic_vqa; images of iNaturalist and Google Landmarks under their own",
        id_column="question_id",
        files=(File("evqa/train.csv", "https://storage.googleapis.com/encyclopedic-vqa/train.csv", about=74 * MB),),
        images=Images(
            collection="evqa",
            where="a folder with iNaturalist 2021's train.json and, beside it, its folder train, and with Google "
            "Landmarks v2's folder train",
        ),
    ),
    Source(
        name="okvqa",
        kind="hub",
        counts={"val2014": 5_046},
        licence="questions CC BY 4.0 as of the VQA consortium; COCO images under Flickr's terms",
        id_column="question_id",
        hub="lmms-lab/OK-VQA",
        size=831 * MB,
    ),
    Source(
        name="aokvqa",
        kind="hub",
        counts={"train": 17_056, "validation": 1_145, "test": 6_702},
        licence="Apache-2.0 questions; COCO images under Flickr's terms",
        id_column="question_id",
        hub="HuggingFaceM4/A-OKVQA",
        size=1_320 * MB,
    ),
    Source(
        name="mrag_bench",
        kind="hub",
        counts={"test": 1_353},
        licence="CC BY 4.0",
        id_column="id",
        hub="uclanlp/MRAG-Bench",
        size=4_300 * MB,
    ),
    Source(
        name="cvqa",
        kind="hub",
        counts={"test": 10_374},
        licence="of each row, in its field License",
        id_column="ID",
        hub="afaji/cvqa",
        revision="e9e152ea75246029e57bbca7d0b1d156b900be17",
        size=4_952 * MB,
    ),
)
SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}

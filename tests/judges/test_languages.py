"""Normal forms and units, on sentences whose words a reader of the language can check."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from seaalign.functional.errors import error_rate
from seaalign.judges.languages import graphemes, normalise, words
from seaalign.judges.languages.codes import primary
from seaalign.judges.languages.numbers import SPELLED

SENTENCES = {
    "th": {
        "เขาไปโรงเรียนทุกวัน": "เขา ไป โรงเรียน ทุกวัน",
        "เราดื่มน้ำเย็นที่บ้าน": "เรา ดื่ม น้ำเย็น ที่ บ้าน",
        "สวัสดีครับ คุณชื่ออะไร?": "สวัสดี ครับ คุณ ชื่อ อะไร",
    },
    "lo": {
        "ລາວໄປໂຮງຮຽນທຸກມື້": "ລາວ ໄປ ໂຮງຮຽນ ທຸກມື້",
        "ສະບາຍດີ ເຈົ້າຊື່ຫຍັງ?": "ສະບາຍດີ ເຈົ້າ ຊື່ ຫຍັງ",
        "ລາວຢູ່ວຽງຈັນ": "ລາວ ຢູ່ ວຽງຈັນ",
    },
    "km": {
        "ខ្ញុំរៀនភាសាខ្មែរ។": "ខ្ញុំ រៀន ភាសា ខ្មែរ",
        "គាត់ទៅសាលារៀនរាល់ថ្ងៃ": "គាត់ ទៅ សាលារៀន រាល់ ថ្ងៃ",
        "ខ្ញុំញ៉ាំបាយជាមួយម្តាយ": "ខ្ញុំ ញ៉ាំ បាយ ជាមួយ ម្តាយ",
    },
    "my": {
        "သူကျောင်းကိုနေ့တိုင်းသွားတယ်။": "သူ ကျောင်း ကို နေ့ တိုင်း သွား တယ်",
        "မင်္ဂလာပါ၊ နေကောင်းလား။": "မင်္ဂလာ ပါ နေ ကောင်း လား",
        "ဒီနေ့မိုးရွာတယ်": "ဒီ နေ့ မိုးရွာ တယ်",
    },
    "vi": {
        "Hôm nay trời đẹp, tôi đi chợ.": "hôm nay trời đẹp tôi đi chợ",
        "Bạn tên là gì?": "bạn tên là gì",
    },
    "en": {"Don't stop — she's 'here'!": "dont stop shes here"},
}
EVERY = [(code, text, cut) for code, texts in SENTENCES.items() for text, cut in texts.items()]
UNSPACED = [row for row in EVERY if row[0] in ("th", "lo", "km", "my")]

LETTERS = "".join(
    chr(c)
    for low, high in ((0xE00, 0xE7F), (0xE80, 0xEFF), (0x1780, 0x17FF), (0x1000, 0x109F))
    for c in range(low, high)
)
ODD = "\u200b\u200c\u200d\ufeff\u00ad\u034f'’-.,!?()“”…฿%^ \n\tAaßİǆﬁ½²①Ⅷ１Ａ５05é́̈ệỏaeouyòùĐđ漢ガ가가\ue000\ud800"
MIXED = st.text(st.sampled_from(LETTERS + ODD), max_size=12) | st.text(max_size=8)
SCRIPTS = st.sampled_from(["ก่้ิีุูํ๎ฺ์ะาำเๆฯ", "ກ່້ິີຸູໍຼ຺໌ະາຳເຫນມລໆຯ", "កដតរ្ិីាេោើុ់៉៊៌ំះៗ", "ကငဂရဥ္်ျြွှေိီုူာါံ့း၀"])
CLOSE = SCRIPTS.flatmap(lambda letters: st.text(st.sampled_from(letters), max_size=9))
CODES = st.sampled_from([*sorted(SPELLED), "sw", None])


@pytest.mark.parametrize(("code", "text", "cut"), EVERY)
def test_words_of_everyday_sentences(code, text, cut):
    assert words(text, code) == cut.split()


@pytest.mark.parametrize(("code", "text", "cut"), UNSPACED)
def test_words_do_not_depend_on_what_cannot_be_seen_or_on_spaces(code, text, cut):
    for mark in ("\u200b", "\u200c", "\u200d", "\ufeff", "\u00ad", "\u2060"):
        assert words(mark + mark.join(text) + mark, code) == cut.split()
    spread = "".join(c if regex.match(r"\p{M}", c) else f" {c}" for c in graphemes(text, code))
    assert words(cut, code) == words(spread, code) == cut.split()
    assert words(text) == cut.split(), "the script alone says who cuts"


def test_scripts_meet_in_one_sentence():
    assert words("ฉันใช้ iPhone ที่บ้าน", "th") == ["ฉัน", "ใช้", "iphone", "ที่", "บ้าน"]
    assert words("漢字カナ and 你好") == ["漢", "字", "カ", "ナ", "and", "你", "好"]


# Each line: ways to write one syllable, all of which must come out as the first.
ONE_FORM = [
    ("น้ำ", "นำ้", "นํ้า", "น้ํา", "น้้ำ"),
    ("ที่", "ท่ี", "ที่่", "ทีี่"),
    ("จ้ะ", "จะ้"),
    ("แม่", "เเม่"),
    ("สิทธิ์", "สิทธ์ิ"),
    ("นู่", "นู่"),
    ("ນ້ຳ", "ນຳ້", "ນໍ້າ", "ນ້ໍາ"),
    ("ທີ່", "ທ່ີ"),
    ("ໝາ", "ຫມາ"),
    ("ໜັກ", "ຫນັກ"),
    ("ຫຼາຍ", "ຫລາຍ"),
    ("ແມ່", "ເເມ່"),
    ("ស្ត្រី", "ស្រ្តី", "សី្ត្រ", "ស្ត្រីី", "ស្ដ្រី"),
    ("ញ៉ាំ", "ញា៉ំ", "ញាំ៉"),
    ("ដោយ", "ដេាយ", "ដាេយ"),
    ("ដើម", "ដេីម"),
    ("ကျွန်", "ကွျန်"),
    ("မြွှေ", "မှွြေ", "မြေွှ"),
    ("နို့", "နု့ိ", "န့ို", "နုိ့"),
    ("ဝန်း", "၀န်း"),
]


@pytest.mark.parametrize("forms", ONE_FORM, ids=lambda forms: forms[0])
def test_what_looks_alike_is_written_alike(forms):
    assert {normalise(form) for form in forms} == {forms[0]}


@pytest.mark.parametrize(
    ("letter", "marks", "after"),
    [("น", "ี้", ""), ("ກ", "ູ້", ""), ("ຫ", "ຼູ້", ""), ("ញ", "៉ុំ", ""), ("မ", "ြွှုံ့", ""), ("တ", "ို့", "")],
)
def test_marks_in_any_order_are_one_text(letter, marks, after):
    orders = {normalise(letter + "".join(order)) for order in itertools.permutations(marks)}
    assert orders == {letter + marks}


@pytest.mark.parametrize("word", ["ယောက်ျား", "ကျွန်ုပ်", "ဒေါ်", "သင်္ဘော", "အင်္ဂလိပ်", "ဝတ္ထု", "ဦး", "เกาะ", "กรรมการ", "សម្ព័ន្ធ"])
def test_right_spelling_stays(word):
    assert normalise(word) == word


@given(MIXED | CLOSE, CODES)
@example("ក\u17b6\u17c1\u17c2", "km")  # two halves become one vowel, which has another place
def test_twice_is_once(text, code):
    once = normalise(text, code)
    assert normalise(once, code) == once


@given(MIXED | CLOSE, CODES)
def test_clusters_join_to_the_normal_form(text, code):
    assert "".join(graphemes(text, code)) == normalise(text, code).replace(" ", "")


@given(MIXED | CLOSE, CODES)
def test_words_lose_nothing(text, code):
    if not regex.search("[ๆໆៗ]", text + normalise(text, code)):
        assert "".join(words(text, code)) == "".join(graphemes(text, code))


@given(CLOSE)
def test_invisible_characters_never_count(text):
    assert normalise("\u200b".join(text)) == normalise(text)


@pytest.mark.parametrize("text", ["", " \n", "\ufeff", "…!?", "ฯ", "។៕៖", "၊။", "“”", "\u0e48", "្", "🙂"])
def test_nothing_said_is_nothing(text):
    assert (normalise(text, "th"), words(text, "th"), graphemes(text, "th")) == ("", [], [])


def test_clusters_are_what_a_reader_sees():
    assert graphemes("ที่น้ำ") == ["ที่", "น้ำ"]
    assert graphemes("ນ້ຳ") == ["ນ້ຳ"]
    assert graphemes("ស្ត្រី ខ្មែរ") == ["ស្ត្រី", "ខ្មែ", "រ"]
    assert graphemes("tiếng", "vi") == ["t", "i", "ế", "n", "g"]


@pytest.mark.parametrize(
    ("code", "written", "said"),
    [
        ("th", "๒๑ คน", "ยี่สิบเอ็ดคน"),
        ("th", "101", "หนึ่งร้อยเอ็ด"),
        ("th", "5", "ห้า"),
        ("lo", "໒໕", "ຊາວຫ້າ"),
        ("lo", "2024", "ສອງພັນຊາວສີ່"),
        ("lo", "25.000", "ຊາວຫ້າພັນ"),
        ("lo", "1 250 000", "ໜຶ່ງ ສອງຮ້ອຍຫ້າສິບ ສູນ ສູນ ສູນ"),
        ("lo", "1,250,000", "ໜຶ່ງລ້ານສອງແສນຫ້າສິບພັນ"),
        ("km", "១២៣", "មួយរយម្ភៃបី"),
        ("my", "၂၁", "နှစ်ဆယ်တစ်"),
        ("vi", "1.024", "một nghìn không trăm hai mươi tư"),
        ("en", "1,021", "one thousand twenty-one"),
        ("en", "007", "zero zero seven"),
        ("en", "1234567890", "one two three four five six seven eight nine zero"),
    ],
)
def test_digits_and_spelled_numbers_are_one(code, written, said):
    assert graphemes(written, code) == graphemes(said, code)
    assert words(written, code) == words(said, code)


def test_digits_of_other_languages_become_ascii():
    assert normalise("٣ ३ ๓ ３", "sw") == normalise("٣ ३ ๓ ３") == "3 3 3 3"


def test_repetition_marks_repeat_the_word_before():
    assert words("เด็กๆ ไป", "th") == words("เด็ก ๆ ไป", "th") == ["เด็ก", "เด็ก", "ไป"]
    assert words("ຊ້າໆ", "lo") == ["ຊ້າ", "ຊ້າ"]
    assert words("ផ្សេងៗ", "km") == ["ផ្សេង", "ផ្សេង"]
    assert words("ๆ") == []


def test_abbreviations_are_read():
    assert words("กรุงเทพฯ", "th") == words("กรุงเทพ", "th")
    assert normalise("ข้าว ฯลฯ", "th") == "ข้าว และอื่นๆ"
    assert normalise("ထမင်း၏။") == "ထမင်း၏", "this sign is a word"


def test_latin_forms():
    assert normalise("ＨＥＬＬＯ ﬁne Straße e\u0301") == "hello fine strasse é"
    assert normalise("hòa thúy quý òa!", "vi") == normalise("hoà thuý quý oà", "vi") == "hoà thuý quý oà"
    assert normalise("hoàn toàn mùa của", "vi") == "hoàn toàn mùa của"


def test_error_rates_a_person_can_redo():
    reference, heard = "เขาไปโรงเรียนทุกวัน", "เขาไปบ้านทุกวัน"  # one of four words
    assert error_rate([words(heard, "th")], [words(reference, "th")]).item() == 0.25
    reference, heard = "ນ້ຳ ທີ່", "ນຳ ທີ່"  # one of two clusters; of six code points it would be one in six
    assert error_rate([graphemes(heard, "lo")], [graphemes(reference, "lo")]).item() == 0.5
    reference, heard = "គាត់ទៅសាលារៀនរាល់ថ្ងៃ", "គាត់ទៅសាលារៀន"  # two of five words are missing
    assert error_rate([words(heard, "km")], [words(reference, "km")]).item() == pytest.approx(0.4)
    reference, heard = "ဒီနေ့မိုးရွာတယ်", "ဒီနေ့ မိုးရွာ တယ်။"
    assert error_rate([words(heard, "my")], [words(reference, "my")]).item() == 0
    reference, heard = "Hôm nay trời đẹp", "hôm nay trời đẹp quá"  # one word too many for four
    assert error_rate([words(heard, "vi")], [words(reference, "vi")]).item() == 0.25


def test_language_codes():
    assert [primary(code) for code in ("th", "tha", "th-TH", "TH_th", "lao", "khm", "bur", "mya", "vie", "eng")] == [
        *("th", "th", "th", "th", "lo", "km", "my", "my", "vi", "en")
    ]
    assert normalise("5", "tha") == normalise("5", "th-TH") == "ห้า"
    for code in ("thai", "", "t", "ไทย"):
        with pytest.raises(ValueError, match=r"is no code: give ISO 639, for example 'th'"):
            normalise("ก", code)
    with pytest.raises(TypeError, match="language is 3, but must be a code"):
        words("ก", 3)
    with pytest.raises(TypeError, match="text is None, but must be a string"):
        graphemes(None)


def test_missing_packages_are_named_and_clusters_need_none():
    """In a fresh interpreter, because what is imported stays."""
    probe = """
import sys
texts = {"pythainlp": "ไปไหน", "laonlp": "ໄປໃສ", "khmercut": "ទៅណា", "icu4py": "ဘယ်လဲ"}
sys.modules.update(dict.fromkeys(texts))
from seaalign.judges.languages import graphemes, normalise, words
for text in texts.values():
    assert "".join(graphemes(text, "th")) == normalise(text, "th") == text
    try:
        words(text)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for package, line in zip(("pythainlp", "laonlp", "khmercut", "icu4py"), lines, strict=True):
        assert f"needs {package} (" in line
        assert 'pip install "seaalign[languages]"' in line and 'unit="grapheme"' in line


def test_a_number_that_cannot_be_spelled_is_an_error_not_another_result(monkeypatch):
    monkeypatch.setitem(sys.modules, "icu4py.messageformat", None)
    with pytest.raises(ImportError, match=r"spelling numbers of 'km' needs icu4py.*seaalign\[languages\]"):
        normalise("៩៨៧៦៥", "km")
    assert normalise("៩៨៧៦៥") == "98765"


def test_nothing_is_printed_and_nothing_heavy_is_loaded_before_use():
    probe = """
import sys
from seaalign.judges.languages import words
print(*sorted({"pythainlp", "laonlp", "khmercut", "icu4py"} & set(sys.modules)))
for text in ("ไปไหน", "ໄປໃສ", "ទៅណា", "ဘယ်လဲ"):
    words(text)
"""
    done = subprocess.run([sys.executable, "-W", "default", "-c", probe], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("\n", "")


@pytest.mark.parametrize(("code", "text", "cut"), UNSPACED[::3])
def test_a_thousand_short_sentences_take_a_second(code, text, cut):
    texts = [f"{text}{'x' * (i % 30)}y{i}z" for i in range(500)]
    words(text, code)
    start = time.process_time()
    for each in texts:
        words(each)
    assert time.process_time() - start < 3

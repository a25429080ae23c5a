"""request_head(): what it writes, and that nothing can break out of its place."""

from http import HTTPMethod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncflow.http1 import InvalidRequest, request_head

from .strategies import REPEATABLE

HOST = ("Host", "example.org")


def test_a_head() -> None:
    fields = [HOST, ("Accept", "*/*"), ("X-Empty", ""), ("X-Tab", "a\tb"), ("X-Latin", "\xe9\x85\xff")]
    assert request_head("GET", "/a?b=c", fields) == (
        b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\nX-Empty: \r\n"
        b"X-Tab: a\tb\r\nX-Latin: \xe9\x85\xff\r\n\r\n"
    )


def test_fields_may_be_any_iterable_of_pairs() -> None:
    expected = b"GET / HTTP/1.1\r\nHost: example.org\r\nA: b\r\n\r\n"
    assert request_head("GET", "/", iter([HOST, ("A", "b")])) == expected
    assert request_head("GET", "/", {"Host": "example.org", "A": "b"}.items()) == expected
    assert request_head("GET", "/", [list(HOST), ["A", "b"]]) == expected  # type: ignore[list-item]
    assert request_head(HTTPMethod.GET, "/", [HOST, ("A", "b")]) == expected


@pytest.mark.parametrize("target", ["/", "*", "example.org:443", "http://example.org/", '/%20?"<>\\^`{|}'])
def test_targets(target: str) -> None:
    assert request_head("GET", target, [HOST]).split(b" ")[1] == target.encode()


@pytest.mark.parametrize(
    "method",
    ["", " ", "GET ", " GET", "GE T", "GET\r\n", "G\xcbT", "GET\0", "GET:", "GET /x"],
)
def test_refused_methods(method: str) -> None:
    with pytest.raises(InvalidRequest, match="method"):
        request_head(method, "/", [HOST])


@pytest.mark.parametrize(
    "target",
    [
        "",
        " ",
        "/ ",
        " /",
        "/a b",
        "/a\tb",
        "/\r\n",
        "/\n",
        "/\0",
        "/\x7f",
        "/\xe9",
        "/\u20ac",
        "/ HTTP/1.1\r\nA: b",
    ],
)
def test_refused_targets(target: str) -> None:
    with pytest.raises(InvalidRequest, match="target"):
        request_head("GET", target, [HOST])


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "A ",
        " A",
        "A B",
        "A:",
        "A: b",
        "A\r\nB",
        "A\n",
        "A: b\r\nC",
        "A\0",
        "A\t",
        "\xe9",
        '"A"',
        "A\x7f",
    ],
)
def test_refused_names(name: str) -> None:
    with pytest.raises(InvalidRequest, match="not a field name"):
        request_head("GET", "/", [HOST, (name, "secret")])


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("secret\r\nEvil: x", "CR, LF, NUL"),
        ("secret\r\n", "CR, LF, NUL"),
        ("secret\n", "CR, LF, NUL"),
        ("\nsecret", "CR, LF, NUL"),
        ("secret\r", "CR, LF, NUL"),
        ("sec\rret", "CR, LF, NUL"),
        ("secret\r\n folded", "CR, LF, NUL"),
        ("secret\r\n\r\nGET / HTTP/1.1", "CR, LF, NUL"),
        ("sec\0ret", "CR, LF, NUL"),
        ("sec\x0bret", "control"),
        ("sec\x7fret", "control"),
        ("\x1bsecret", "control"),
        (" secret", "white space around it"),
        ("secret ", "white space around it"),
        ("\tsecret", "white space around it"),
        ("secret\t", "white space around it"),
        (" ", "white space around it"),
        ("secret\u20ac", "latin-1"),
        ("secret\u010a", "latin-1"),  # its low byte is LF
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_refused_values(value: str, fault: str, place: int) -> None:
    fields = [HOST, ("A", "b")]
    fields.insert(place, ("X-Name", value))
    with pytest.raises(InvalidRequest, match=fault) as caught:
        request_head("GET", "/", fields)
    assert "X-Name" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("value", [b"x", 5, None, ["x"]])
def test_values_of_another_type_are_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"X-Name is of type {type(value).__name__}"):
        request_head("GET", "/", [HOST, ("X-Name", value)])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match="not a field name"):
        request_head("GET", "/", [HOST, (value, "x")])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "value",
    ["a" * 1_000_000 + "\n", "a: " * 300_000 + "\0", "\n" * 1_000_000, "a\r\n" * 300_000],
    ids=["long line", "many colons", "empty lines", "lines"],
)
def test_a_large_value_does_not_cost_the_square_of_its_size(value: str) -> None:
    """Each would take hours, if it did."""
    with pytest.raises(InvalidRequest, match="X-Name"):
        request_head("GET", "/", [HOST, ("X-Name", value)])
    with pytest.raises(InvalidRequest, match="not a field name"):
        request_head("GET", "/", [HOST, (value, "x")])


def test_method_and_target_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError):
        request_head(b"GET", "/", [HOST])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        request_head("GET", b"/", [HOST])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ([], "Host must be given once, not 0 times"),
        ([("A", "b")], "Host must be given once, not 0 times"),
        ([HOST, ("host", "example.com")], "Host must be given once, not 2 times"),
        ([HOST, HOST], "Host must be given once, not 2 times"),
        ([HOST, ("Content-Length", "5"), ("Transfer-Encoding", "chunked")], "exclude one another"),
        ([HOST, ("transfer-encoding", "chunked"), ("content-length", "5")], "exclude one another"),
        (
            [HOST, ("Content-Length", "5"), ("content-length", "6")],
            "Content-Length must be one decimal number",
        ),
        (
            [HOST, ("Content-Length", "5"), ("Content-Length", "5")],
            "Content-Length must be one decimal number",
        ),
        ([HOST, ("Content-Length", "5, 5")], "Content-Length must be one decimal number"),
        ([HOST, ("Content-Length", "")], "Content-Length must be one decimal number"),
        ([HOST, ("Content-Length", "-5")], "Content-Length must be one decimal number"),
        ([HOST, ("Content-Length", "0x5")], "Content-Length must be one decimal number"),
        ([HOST, ("Content-Length", "\xb2")], "Content-Length must be one decimal number"),
        ([HOST, ("Transfer-Encoding", "gzip")], "must end in chunked"),
        ([HOST, ("Transfer-Encoding", "")], "must end in chunked"),
        ([HOST, ("Transfer-Encoding", "chunked, gzip")], "must end in chunked"),
        ([HOST, ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], "applied once"),
    ],
)
def test_refused_framing(fields: list[tuple[str, str]], fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        request_head("POST", "/", fields)


@pytest.mark.parametrize(
    "field",
    [
        ("Content-Length", "0"),
        ("content-length", "005"),
        ("Transfer-Encoding", "Chunked"),
        ("Transfer-Encoding", "gzip, chunked"),
    ],
)
def test_framing(field: tuple[str, str]) -> None:
    assert request_head("POST", "/", [HOST, field]).endswith(f"{field[0]}: {field[1]}\r\n\r\n".encode())


@REPEATABLE
@given(
    st.text(max_size=6),
    st.text(max_size=6),
    st.lists(
        st.tuples(st.text("Aa-: \r\n\0\xe9", max_size=4), st.text("a: \t\r\n\0\xe9\u010a", max_size=6)),
        max_size=4,
    ),
)
def test_whatever_is_accepted_is_found_again(method: str, target: str, fields: list[tuple[str, str]]) -> None:
    try:
        head = request_head(method, target, [HOST, *fields])
    except InvalidRequest:
        return
    request_line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    assert request_line.split(" ") == [method, target, "HTTP/1.1"]
    assert [tuple(line.split(": ", 1)) for line in lines] == [HOST, *fields]
    assert "\r" not in "".join(lines)
    assert "\n" not in "".join(lines)

"""Values of every built-in type, and of types made of them, with the ones that peers get wrong; and odd names."""

from typing import Any

import psycopg

ODD_NAMES = [
    "old", "new", "n", "o", "claim", "pgseal", "context", "row_count", "settings", "old_image", "new_image", "r",
    "old_rows", "new_rows", "id", "key", "tg_op", "TG_OP", "record", "found", "n_", "select", "Größe", "日本語", "a b",
    'quo"te', "per%cent", "{brace}", "$1", "$$", "back\\slash", "new.id", "xmin_", "x" * 63, "é" * 31, " ", ".",
    "null", "user", "ctid_", "tableoid_", "value", "text", "_", "-- comment", "/*", "';",
]  # fmt: skip

VALUES: dict[str, list[str]] = {
    "bool": ["true", "false"],
    "int2": ["-32768", "32767"],
    "int4": ["-2147483648", "0"],
    "int8": ["9223372036854775807", "-9007199254740993"],
    "numeric": ["NaN", "Infinity", "-Infinity", "1.0", "1.00", "-0", "1e-30", "1e30", "12345678901234567890.5"],
    "numeric(10,-2)": ["12345"],
    "numeric(6,3)": ["1.5", "-0.001"],
    "float4": ["NaN", "Infinity", "-Infinity", "-0", "0.1", "1e-45", "3.4028235e38"],
    "float8": ["NaN", "Infinity", "-Infinity", "-0", "0.1", "5e-324", "1.7976931348623157e308", "0.30000000000000004"],
    "money": ["-1.5", "92233720368547758.07"],
    "text": ["", " ", "a\tb\nc", "\\", '"', "\u2028é😀", "\x01\x7f"],
    "varchar": ["", "x  "],
    "varchar(5)": ["abc  "],
    "char": ["a"],
    "char(5)": ["ab", "", "  a"],
    '"char"': ["a", "", "\\377"],
    "name": ["x", "Größe"],
    "bytea": ["", "\\x00ff", "\\xdeadbeef"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2024-02-29"],
    "time": ["00:00", "24:00:00", "12:34:56.789012"],
    "timetz": ["00:00+15:59", "24:00:00-15:59", "12:34:56.7+01:23:45"],
    "timestamp": ["infinity", "-infinity", "4713-01-01 BC", "294276-12-31 23:59:59.999999", "0001-01-01 BC"],
    "timestamp(2)": ["2024-02-29 12:00:00.456"],
    "timestamptz": ["infinity", "-infinity", "4713-01-02 BC", "294276-12-31 00:00:00+00", "2024-06-30 23:59:60+00"],
    "interval": ["1 day", "24:00:00", "-1 year 2 months -3 days 04:05:06.789", "178000000 years", "0"],
    "interval day to second": ["1 day 02:03:04"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-4fff-8fff-ffffffffffff"],
    "json": ['{"a":1,"a":2}', '{"a":"\\u0000"}', "null",
             "  [1, 2.50, -0, 1e2 ]", '"\\ud83d\\ude00"', '{"b":1,"a":null}'],
    "jsonb": ['{"a": {"b": null}}', "null", "[]", "{}", '"x"', "1.50", '[null, {"a": 1e2}]', "-0", "true",
              '{"pgseal": "null"}', '{"pgseal": "value", "value": 1}', '["pgseal"]', '"pgseal"', '"null"',
              '{"": null}'],
    "jsonpath": ["$.a[*] ? (@ > 1)"],
    "xml": ["<a>b</a>", "text", "<a/><b/>", "&amp;"],
    "tsvector": ["'a':1A 'fat':2B,4C", "", "'it''s'"],
    "tsquery": ["'a' & 'b' <-> !'c'", "'x':*A"],
    "bit": ["1"],
    "bit(5)": ["10101"],
    "varbit": ["", "1"],
    "inet": ["192.168.0.1/24", "::1", "10.0.0.1"],
    "cidr": ["10/8", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1,2)", "(NaN,-Infinity)", "(0.1,-0)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(0,0),(1,1)]"],
    "box": ["(2,2),(0,0)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))"],
    "polygon": ["((0,0),(1,0),(1,1))"],
    "circle": ["<(1,2),3>"],
    "pg_lsn": ["16/B374D848", "0/0"],
    "pg_snapshot": ["10:20:10,14,15"],
    "txid_snapshot": ["10:20:10,14,15"],
    "xid": ["4294967295"],
    "xid8": ["18446744073709551615"],
    "cid": ["7"],
    "tid": ["(42,7)"],
    "oid": ["0", "4294967295"],
    "regclass": ["pg_class", "public.odd_table"],
    "regtype": ["integer", "text[]", "-"],
    "regproc": ["now"],
    "regprocedure": ["lower(text)"],
    "regoper": ["|/"],
    "regoperator": ["+(integer,integer)"],
    "regrole": ["postgres"],
    "regnamespace": ["public", "pg_catalog"],
    "regconfig": ["english"],
    "regdictionary": ["simple"],
    "regcollation": ['"C"'],
    "int4[]": ["{}", "{1,NULL,3}", "[2:3]={1,2}", "[-1:0][5:6]={{1,2},{3,4}}"],
    "text[]": ["{}", '{a,"b c",NULL,"NULL","{}",""}', '{"a\\"b","c\\\\d"}'],
    "numeric[]": ["{1.0,NaN,-Infinity}"],
    "jsonb[]": ['{"{\\"a\\": null}","null"}'],
    "timestamptz[]": ["{infinity,2024-01-01 00:00:00+00}"],
    "int4range": ["empty", "[1,5)", "(,)", "[3,)"],
    "numrange": ["(1.0,2.00]", "[NaN,NaN]"],
    "tstzrange": ["[2024-01-01 00:00+00,infinity)"],
    "daterange": ["[2024-01-01,2024-02-01)"],
    "int4multirange": ["{}", "{[1,2),[5,7)}"],
    "nummultirange": ["{[1.0,1.50]}"],
    "tsmultirange": ['{["2024-01-01 00:00:00",infinity)}'],
    "mood": ["happy", "so so", "it's"],
    "mood[]": ["{happy,NULL}"],
    "positive": ["1"],
    "short": ["abc"],
    "texts": ["{a,NULL}"],
    "document": ['{"a": 1.0}', "null"],
    "pair": ["(1,a)", "(,)", '(2,"b c")', '(,"")'],
    "pair[]": ['{"(1,a)",NULL}'],
    "whole_pair": ["(1,a)"],
    "nested": ['("(,)",)', '("(1,x)","{1,2}")', "(,)"],
    "floatrange": ["[0.1,Infinity)"],
}  # fmt: skip

TYPES = """
CREATE TABLE odd_table ();
CREATE TYPE mood AS ENUM ('happy', 'so so', 'it''s');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN short AS varchar(3);
CREATE DOMAIN texts AS text[];
CREATE DOMAIN document AS jsonb;
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN whole_pair AS pair CHECK ((VALUE).a > 0);
CREATE TYPE nested AS (p pair, q int[]);
CREATE TYPE floatrange AS RANGE (subtype = float8);
"""


def usable(source: psycopg.Connection, by_type: dict[str, Any]) -> dict[str, Any]:
    """Leave out xml where the server was built without it, as the embedded ones are."""
    try:
        source.execute("SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return {name: value for name, value in by_type.items() if name != "xml"}
    return by_type

# SPDX-License-Identifier: Apache-2.0
"""Policies: syntax, matching, priorities and parameters."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from holdfast.core.acl import Acl, parse_policy
from holdfast.core.policy_hcl import PolicySyntaxError, decode
from holdfast.core.types import Operation

READ, UPDATE, LIST, DELETE = Operation.READ, Operation.UPDATE, Operation.LIST, Operation.DELETE


def rule(path: str, *capabilities: str, extra: str = "") -> str:
    listed = ", ".join(f'"{capability}"' for capability in capabilities)
    return f'path "{path}" {{\n  capabilities = [{listed}]\n{extra}\n}}\n'


def acl(*texts: str) -> Acl:
    return Acl([parse_policy(text) for text in texts])


@pytest.mark.parametrize(
    ("policy", "path", "allowed"),
    [
        (rule("secret/a", "read"), "secret/a", True),
        (rule("secret/a", "read"), "secret/ab", False),
        (rule("secret/a", "read"), "secret/a/", False),
        (rule("/secret/a", "read"), "secret/a", True),
        (rule("secret/*", "read"), "secret/a/b", True),
        (rule("secret/*", "read"), "secret/", True),
        (rule("secret/*", "read"), "secret", False),
        (rule("secret/a*", "read"), "secret/abc", True),
        (rule("*", "read"), "anything", True),
        (rule("secret/*/x", "read"), "secret/a/x", False),
        (rule("secret/+/x", "read"), "secret/a/x", True),
        (rule("secret/+/x", "read"), "secret/a/b/x", False),
        (rule("secret/+/x", "read"), "secret/a/x/y", False),
        (rule("secret/+/x*", "read"), "secret/a/xyz/z", True),
        (rule("secret/+/*", "read"), "secret/a/b/c", True),
        (rule("secret/+", "read"), "secret/a", True),
        (rule("secret/+", "read"), "secret/a/b", False),
        (rule("+/+/c", "read"), "a/b/c", True),
        (rule("+", "read"), "a", True),
        (rule("secret/a", "list"), "secret/a", False),
        (rule("id/{{identity.entity.id}}", "read"), "id/{{identity.entity.id}}", False),
    ],
)
def test_matching(policy: str, path: str, allowed: bool) -> None:
    assert acl(policy).allows(READ, path, {}) is allowed


@pytest.mark.parametrize(
    ("winner", "loser", "path"),
    [
        ("secret/a", "secret/*", "secret/a"),
        ("secret/a", "secret/+", "secret/a"),
        ("secret/abc*", "secret/a*", "secret/abcd"),
        ("secret/ab*", "secret/+/x", "secret/ab/x"),  # the first wildcard comes later
        ("secret/a/+", "secret/+/b", "secret/a/b"),
        ("secret/+/b", "secret/+/*", "secret/a/b"),  # no final "*"
        ("secret/+/b/c", "secret/+/+/c", "secret/a/b/c"),  # fewer "+"
        ("secret/+/bc*", "secret/+/b*", "secret/a/bcd"),  # longer
        ("secret/+/x", "secret/*", "secret/a/x"),
    ],
)
def test_priority(winner: str, loser: str, path: str) -> None:
    for texts in ((rule(winner, "read"), rule(loser, "deny")), (rule(loser, "deny"), rule(winner, "read"))):
        assert acl(*texts).allows(READ, path, {})
    assert not acl(rule(winner, "deny"), rule(loser, "read")).allows(READ, path, {})


def test_same_path_in_two_policies() -> None:
    both = acl(rule("a", "read"), rule("a", "update", "list"))
    assert both.capabilities("a") == ["list", "read", "update"]
    denied = acl(rule("a", "read", "sudo"), rule("a", "deny"))
    assert denied.capabilities("a") == ["deny"]
    assert not denied.allows(READ, "a", {})


def test_listing_with_and_without_the_final_slash() -> None:
    assert acl(rule("secret/metadata", "list")).allows(LIST, "secret/metadata/", {})
    assert acl(rule("secret/metadata/", "list")).allows(LIST, "secret/metadata/", {})
    assert not acl(rule("secret/metadata", "read")).allows(LIST, "secret/metadata/", {})


def test_create_is_not_update() -> None:
    creator, updater = acl(rule("a", "create")), acl(rule("a", "update"))
    for exists, create, update in ((False, True, False), (True, False, True), (None, False, True)):
        assert creator.allows(UPDATE, "a", {}, lambda exists=exists: exists) is create
        assert updater.allows(UPDATE, "a", {}, lambda exists=exists: exists) is update
    asked: list[bool] = []
    assert acl(rule("a", "create", "update")).allows(UPDATE, "a", {}, lambda: bool(asked.append(True)))
    assert asked == []


def test_sudo() -> None:
    assert not acl(rule("sys/seal", "update")).allows(UPDATE, "sys/seal", {}, sudo=True)
    assert acl(rule("sys/seal", "update", "sudo")).allows(UPDATE, "sys/seal", {}, sudo=True)
    assert acl(rule("x", "sudo")).has_sudo("x")
    assert not acl(rule("x", "read")).has_sudo("x")


@pytest.mark.parametrize(
    ("extra", "data", "allowed"),
    [
        ('required_parameters = ["a"]', {}, False),
        ('required_parameters = ["A"]', {"a": 1}, True),
        ('denied_parameters = { "a" = [] }', {"a": 1}, False),
        ('denied_parameters = { "a" = [] }', {"b": 1}, True),
        ('denied_parameters = { "a" = ["x", "y*"] }', {"a": "yes"}, False),
        ('denied_parameters = { "a" = ["x"] }', {"a": "z"}, True),
        ('denied_parameters = { "*" = [] }', {"z": 1}, False),
        ('allowed_parameters = { "a" = [] }', {"a": "any"}, True),
        ('allowed_parameters = { "a" = [] }', {"a": "any", "b": 1}, False),
        ('allowed_parameters = { "a" = ["x", 2] }', {"a": 2}, True),
        ('allowed_parameters = { "a" = ["x"] }', {"a": "y"}, False),
        ('allowed_parameters = { "a" = ["x"]\n "*" = [] }', {"a": "x", "b": 1}, True),
        ('allowed_parameters = { "a" = ["x"]\n "*" = [] }', {"a": "y", "b": 1}, False),
        ('allowed_parameters = { "a" = ["pre*"] }', {"A": "prefix"}, True),
        ('allowed_parameters = { "a" = [] }', {}, True),
        ('allowed_parameters = { "a" = ["[x]?*"] }', {"a": "[x]?yes"}, True),
        ('allowed_parameters = { "a" = ["[x]*"] }', {"a": "x"}, False),
    ],
)
def test_parameters(extra: str, data: dict[str, Any], allowed: bool) -> None:
    assert acl(rule("a", "update", extra=extra)).allows(UPDATE, "a", data) is allowed


def test_merged_parameters() -> None:
    one = rule("a", "update", extra='allowed_parameters = { "p" = ["x"] }')
    two = rule("a", "update", extra='allowed_parameters = { "p" = ["y"]\n "q" = [] }')
    merged = acl(one, two)
    assert merged.allows(UPDATE, "a", {"p": "x", "q": 1})
    assert merged.allows(UPDATE, "a", {"p": "y"})
    assert not merged.allows(UPDATE, "a", {"p": "z"})


def test_delete_ignores_parameters() -> None:
    assert acl(rule("a", "delete", extra='required_parameters = ["x"]')).allows(DELETE, "a", {})


@pytest.mark.parametrize(
    ("path", "mount", "touched"),
    [
        ("secret/a", "secret/", True),
        ("secret", "secret/", True),
        ("sec*", "secret/", True),
        ("secret/data/*", "secret/", True),
        ("other/*", "secret/", False),
        ("+/data/x", "secret/", True),
        ("other/+", "secret/", False),
        ("team/+/x", "team/a/", True),
        ("+", "team/a/", False),
    ],
)
def test_access_below_a_mount(path: str, mount: str, touched: bool) -> None:
    assert acl(rule(path, "read")).touches(mount) is touched
    assert not acl(rule(path, "deny")).touches(mount)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("path {", "At 1:"),
        ("{", "Expecting"),
        ("[]", "At 1:1"),
        (rule("a", "fly"), 'invalid capability "fly"'),
        ('path "a" { policy = "fly" }', 'invalid policy "fly"'),
        ('path "a" { capabilites = ["read"] }', 'invalid key "capabilites"'),
        ('pat "a" { capabilities = ["read"] }', 'invalid key "pat"'),
        (rule("a+*", "read"), "'+*' is forbidden"),
        (rule("a", "read", extra='min_wrapping_ttl = "1s"'), "min_wrapping_ttl is not supported"),
        ('path "a" { capabilities = "read" }', "must be a list"),
        ('path "a" {\n capabilities = ["read"]\n allowed_parameters = ["x"]\n}', "must map names"),
    ],
)
def test_bad_policies(text: str, part: str) -> None:
    with pytest.raises(PolicySyntaxError) as error:
        parse_policy(text)
    assert part in str(error.value)


def test_other_forms() -> None:
    as_json = '{"path": {"a": {"capabilities": ["read"]}, "b/*": {"policy": "write"}}}'
    assert acl(as_json).capabilities("a") == ["read"]
    assert "create" in acl(as_json).capabilities("b/c")
    text = rule("a", "read")
    assert decode(base64.b64encode(text.encode()).decode()) == text
    assert decode(text) == text
    assert acl("").capabilities("a") == ["deny"]
    assert acl('# nothing\nname = "x"\n').capabilities("a") == ["deny"]
    escaped = acl('path "a\\"b" { capabilities = ["read"] }')
    assert escaped.allows(READ, 'a"b', {})


def test_root() -> None:
    root = Acl([], root=True)
    assert root.allows(UPDATE, "sys/seal", {}, sudo=True)
    assert root.capabilities("x") == ["root"]
    assert root.touches("x/")

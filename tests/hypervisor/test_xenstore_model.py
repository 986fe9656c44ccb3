"""XenStore's tree against the obvious one: random operations, and the accounts counted anew.

The model is a dictionary of values. A transaction's model is the list of its operations: when it
commits, making them one after another outside of it must give the same answers and the same tree.
"""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.xenstore.node import (
    Perm,
    Quotas,
    StoreError,
    join,
    parent_of,
)
from hypervisor.xenstore.tree import Transaction, Tree

ROOT = "/r"
QUOTAS = Quotas(entries=12, entry_size=200, transaction_nodes=20, memory=3000)
names = st.sampled_from(["a", "b"])
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/".join([ROOT, *parts]))
values = st.sampled_from([b"", b"x", b"y" * 60, b"z" * 250])
domains = st.sampled_from([0, 1, 1, 2])
slots = st.sampled_from([None, 0])
perms = st.lists(
    st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 3)).map(lambda p: Perm(*p)),
    min_size=1,
    max_size=3,
).map(tuple)
operations = st.one_of(
    st.tuples(st.just("write"), domains, slots, paths, values),
    st.tuples(st.just("mkdir"), domains, slots, paths),
    st.tuples(st.just("remove"), domains, slots, paths),
    st.tuples(st.just("read"), domains, slots, paths),
    st.tuples(st.just("set_perms"), domains, slots, paths, perms),
    st.tuples(st.just("commit"), domains, st.just(0)),
    st.tuples(st.just("commit"), domains, st.just(0)),
    st.tuples(st.just("drop"), domains, st.just(0)),
)


def perform(tree: Tree, domid: int, tx: Transaction | None, name: str, arguments: tuple) -> object:
    """What an operation answers: a value, None, or the error's name."""
    try:
        answer = getattr(tree, name)(domid, tx, *arguments)
    except StoreError as error:
        return error.errno.name
    return None if answer is None else (answer.value, answer.children, answer.perms)


def contents(tree: Tree) -> dict[str, tuple]:
    return {path: (n.value, n.children, n.perms) for path, n in tree._nodes.items()}


def check(tree: Tree, transactions: dict) -> None:
    """Every node is listed once by its parent, every listed child exists, the accounts agree."""
    memory: Counter[int] = Counter()
    owned: Counter[int] = Counter()
    for path, node in tree._nodes.items():
        assert len(set(node.children)) == len(node.children)
        assert all(join(path, name) in tree._nodes for name in node.children)
        if path != "/":
            assert path.rpartition("/")[2] in tree._nodes[parent_of(path)].children
        memory[node.owner] += node.size + len(path)
        owned[node.owner] += 1
    for tx in transactions.values():
        memory[tx.domid] += tx.memory
    for domid in (0, 1, 2):
        assert tree.memory[domid] == memory[domid]
        assert tree.entries(domid) == owned[domid]
        if domid:
            assert memory[domid] <= QUOTAS.memory


@settings(max_examples=300, deadline=None)
@given(st.lists(operations, min_size=8, max_size=60))
def test_random_operations(steps: list) -> None:
    told: list[str] = []
    tree = Tree(QUOTAS, lambda path, _node, _exact, _before: told.append(path))
    tree.mkdir(0, None, ROOT)
    tree.set_perms(0, None, ROOT, (Perm(0, 3),))
    transactions: dict[tuple[int, int], Transaction] = {}
    done: dict[tuple[int, int], list] = {}
    for name, domid, slot, *arguments in steps:
        key = (domid, slot)
        before = contents(tree)
        told.clear()
        if name in ("commit", "drop"):
            tx = transactions.pop(key, None)
            if tx is None:
                continue
            replayed = done.pop(key)
            if name == "drop":
                tree.drop(tx)
                assert contents(tree) == before
            else:
                failed = tx.failed
                try:
                    tree.commit(tx)
                except StoreError:
                    assert contents(tree) == before
                    assert not told
                else:
                    assert not failed
                    again(before, contents(tree), domid, replayed)
        elif slot is None:
            answer = perform(tree, domid, None, name, tuple(arguments))
            if isinstance(answer, str):
                assert contents(tree) == before
                assert not told
        else:
            tx = transactions.setdefault(key, Transaction(domid))
            done.setdefault(key, [])
            answer = perform(tree, domid, tx, name, tuple(arguments))
            done[key].append((name, tuple(arguments), answer))
            assert contents(tree) == before
            assert not told
        check(tree, transactions)


def again(before: dict, after: dict, domid: int, replayed: list) -> None:
    """The transaction's operations, made one by one on ``before``, give ``after``."""
    roomy = Quotas(entries=1000, entry_size=200)
    tree = Tree(roomy, lambda *_: None)
    tree.work = 0
    for path, (value, children, perms_) in before.items():
        tree._put(path, type(tree._nodes["/"])(value, perms_, children))
    for name, arguments, answer in replayed:
        got = perform(tree, domid, None, name, arguments)
        if answer not in ("ENOSPC", "ENOMEM"):
            assert got == answer
        elif got != answer:
            return  # refused for want of room in the transaction: what follows differs
    assert contents(tree) == after

#!/usr/bin/python3
"""The manual says what the programs do.

Names: every configuration key, frame, record, rule, fault point, state, control command, error, event and status field
(printed by tests/manual/names from the lists that the programs are made of) stands in the page that explains it.
Status: the fields that keeper and agent put into a VM's status, those of the list (which is what people are shown) and those of the page
are the same.
Options: every long option that a --help shows is in that command's page, and no page describes one that no help shows.
Pages: each is installed, names itself, refers to pages that exist, and mandoc finds nothing to warn of.
Programs: each installed one has a page.
Sentences: what replicad-security(7) says is said of bad input stands in the sources, and the tests that show it exist.
"""
import os
import re
import shutil
import subprocess
import sys

SRC = os.environ.get("top_srcdir", ".")
BUILD = os.environ.get("top_builddir", ".")
MAN = os.path.join(SRC, "man")
HELP_TIMEOUT_S = 30
SOURCES = ("src", "netbuf", "disk", "failover", "include")
BAD_INPUT_MIN = 40
STATUS_MIN = 40
QUOTE = "\1"

failures = []


def fail(text):
    failures.append(text)
    print("FAIL: " + text)


def plain(source):
    """The words of an mdoc page: macros of options resolved, escapes gone."""
    text = re.sub(r'\\"[^\n]*', "", source)
    text = text.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\").replace("\\(dq", '"')
    text = re.sub(r"\bFl -", "--", text)
    text = re.sub(r"(\bFl \w \| )-", r"\1--", text)
    return text


def load_pages():
    pages = {}
    for name in sorted(os.listdir(MAN)):
        if re.search(r"\.[1-8]$", name):
            with open(os.path.join(MAN, name), encoding="utf-8") as f:
                pages[name] = f.read()
    return pages


def word(name):
    return re.compile(r"(?<![\w-])" + re.escape(name) + r"(?![\w-])")


def section_of(source, title):
    """The part of a page below `.Sh title`."""
    found = re.search(r"^\.Sh " + re.escape(title) + r"[^\n]*\n(.*?)(?=^\.Sh |\Z)", source, re.M | re.S)
    return found.group(1) if found else ""


def check_key(source, name, section, default, choices):
    title = "THE [%s] SECTION" % section if section == "agent" else "THE [%s NAME] SECTION" % section
    found = re.search(r"^\.It Ic " + re.escape(name) + r" = (.*?)(?=^\.It |^\.El)", section_of(source, title), re.M | re.S)
    if not found:
        return "is not in its section"
    text = plain(found.group(1))
    missing = [c for c in choices.split("|") if c and not word(c).search(text)]
    if missing:
        return "does not name the value %s" % missing[0]
    # a path depends on how the program was configured: its end does not
    if default and default.rsplit("/", 1)[-1] not in text:
        return "does not name its default %s" % default
    return None


def check_frame(source, name, number, low, high):
    size = low if low == high else low + " to " + high
    row = ".It %s Ta %s Ta %s Ta " % (name, number, size)
    return None if row in source else "has no row \"%s\"" % row


def check_field(source, name, kind):
    row = ".It Ic %s Pq %s\n" % (name, kind)
    return None if row in source else "has no item \"%s\"" % row.strip()


def check_name(source, kind, name, detail):
    if kind == "key":
        return check_key(source, name, *detail)
    if kind == "frame":
        return check_frame(source, name, *detail)
    if kind == "field":
        return check_field(source, name, *detail)
    # an item of a list or a row of a table, or several names in one: `.It Ic NAME`, `.It 0x01 Ta NAME`, `.It NAME , Ic OTHER`
    items = plain("\n".join(re.findall(r"^\.It (.*)$", source, re.M)))
    return None if word(name).search(items) else "is no item of it"


def names():
    return subprocess.run([os.path.join(BUILD, "tests/manual/names")], check=True, capture_output=True,
                          text=True).stdout.splitlines()


def check_names(pages, lines):
    count = 0
    for line in lines:
        page, kind, name, *detail = line.split("\t")
        count += 1
        if page not in pages:
            fail("%s: there is no such page, and %s %s should be in it" % (page, kind, name))
            continue
        trouble = check_name(pages[page], kind, name, detail)
        if trouble:
            fail("%s: %s %s %s" % (page, kind, name, trouble))
    return count


def fields_put(path, functions, variable):
    """Names of the fields that these functions of a source file put into that object."""
    with open(os.path.join(SRC, path), encoding="utf-8") as f:
        bodies = re.findall(r"^[\w *]*\b(?:%s)\([^;{]*\)\n\{\n(.*?)^\}" % functions, f.read(), re.M | re.S)
    return {name for body in bodies for name in re.findall(r'\(%s, "(\w+)"' % variable, body)}


def check_status(pages, lines):
    """Who puts a field into the status has to put it into the list: what is not there no person is shown."""
    listed = {name for _, kind, name, *_ in (line.split("\t") for line in lines) if kind == "field"}
    keepers = fields_put("src/keeper/status.c", r"put_\w+|keeper_status", "doc")
    put = keepers | fields_put("src/agent/ward.c", "rpl_ward_status", "o")
    page = re.search(r"^\.Ss Fields of a VM.s status\n(.*?)^\.Ss ", pages["replicad-control.7"], re.M | re.S).group(1)
    explained = set(re.findall(r"^\.It Ic (\w+) Pq ", page, re.M))
    if len(keepers) < STATUS_MIN:
        fail("src/keeper/status.c: %d fields were found, at least %d are known" % (len(keepers), STATUS_MIN))
    for name in sorted(put - listed):
        fail("the status has %s, RPL_STATUS_FIELDS has not" % name)
    for name in sorted(listed - put):
        fail("RPL_STATUS_FIELDS has %s, and nobody puts it into the status" % name)
    for name in sorted(explained - listed):
        fail("replicad-control.7: explains the field %s, which RPL_STATUS_FIELDS has not" % name)


def help_of(program, *words):
    run = subprocess.run([os.path.join(BUILD, program), *words, "--help"], capture_output=True, text=True,
                         timeout=HELP_TIMEOUT_S, stdin=subprocess.DEVNULL)
    if run.returncode != 0:
        fail("%s --help: exit status %d" % (" ".join((program,) + words), run.returncode))
    return run.stdout + run.stderr


def long_options(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", text))


def commands():
    listing = help_of("replicad").split("\ncommands:\n")[1].split("\n\n")[0]
    return re.findall(r"^  ([a-z][a-z-]*)", listing, re.M)


def subcommands(name, text):
    """`replicad stream --help` shows "replicad stream verify ...": each has a help of its own."""
    return [s for s in dict.fromkeys(re.findall(r"replicad %s ([a-z]+)\b" % name, text)) if s != "or"]


def check_options(pages):
    helps = {"replicad.8": help_of("replicad")}
    for name in commands():
        text = help_of("replicad", name)
        for sub in subcommands(name, text):
            text += help_of("replicad", name, sub)
        helps["replicad-%s.8" % name] = text
    for name in ("replicad-relay", "replicad-keeper", "replicad-xen-helper"):
        if os.path.exists(os.path.join(BUILD, name)) and name + ".8" in pages:
            helps[name + ".8"] = help_of(name)
    known = set().union(*map(long_options, helps.values()))
    count = 0
    for page, text in helps.items():
        if page not in pages:
            fail("%s: there is no such page" % page)
            continue
        described = long_options(plain(pages[page]))
        for option in sorted(long_options(text) - {"--help"} if page != "replicad.8" else set()):
            count += 1
            if option not in described:
                fail("%s: %s is in the help and not in the page" % (page, option))
    for page, source in pages.items():
        for option in sorted(set(re.findall(r"\bFl (-[a-z][a-z0-9-]*)", source))):
            if "-" + option not in known | {"--help"}:
                fail("%s: -%s is in the page and in no help" % (page, option))
    return count


def check_pages(pages):
    installed = os.environ["MANUAL_PAGES"].split()
    for name, source in pages.items():
        if "man/" + name not in installed:
            fail("%s: not in dist_man_MANS, so it is not installed" % name)
        stem, section = name.rsplit(".", 1)
        if not re.search(r"^\.Dt %s %s$" % (re.escape(stem.upper()), section), source, re.M):
            fail("%s: its .Dt line names another page" % name)
        if not re.search(r"^\.Nm %s$" % re.escape(stem), source, re.M) and stem != "replicad.conf":
            fail("%s: its NAME section names another page" % name)
        for target, number in re.findall(r"\bXr (\S+) (\d)", source):
            if target.startswith("replicad") and "%s.%s" % (target, number) not in pages:
                fail("%s: refers to %s(%s), which does not exist" % (name, target, number))
    for name in installed:
        if os.path.basename(name) not in pages:
            fail("%s: to be installed, and not there" % name)


def check_lint(pages):
    mandoc = shutil.which("mandoc")
    if not mandoc:
        print("note: mandoc is not installed, the pages were not linted")
        return
    for name in pages:
        run = subprocess.run([mandoc, "-T", "lint", "-W", "warning", os.path.join(MAN, name)], capture_output=True, text=True)
        for line in (run.stdout + run.stderr).splitlines():
            if re.search(r": (WARNING|ERROR|UNSUPP):", line):
                fail(line)


def check_programs(pages):
    for program in os.environ["MANUAL_PROGRAMS"].split():
        name = os.path.basename(program)
        if name.startswith("replicad") and name + ".8" not in pages:
            fail("%s: an installed program without a page" % name)


def sentences():
    """Every source file with its string literals joined and each value in them as "...", as replicad-security(7) writes it."""
    found = []
    for directory in SOURCES:
        for path, _, names in os.walk(os.path.join(SRC, directory)):
            for name in names:
                if name.endswith((".c", ".h")):
                    with open(os.path.join(path, name), encoding="utf-8") as f:
                        text = f.read().replace('\\"', QUOTE)
                    text = re.sub(r'"\s*PRI\w+\s*"?', "u", text)  # "%" PRIu64 " b", or at the end of a literal
                    text = re.sub(r'"\s*"', "", text)  # "a" "b"
                    text = re.sub(r"%[-0-9.*]*(?:hh|h|ll|l|z|t|j)?[a-zA-Z]", "...", text)
                    found.append(re.sub(r"\.{3,}", "...", text).replace(QUOTE, '"'))
    return found


def check_sentences(pages):
    """The table of bad input: each sentence is in the sources, each test is there and runs."""
    source = plain(pages["replicad-security.7"])
    rows = re.findall(r"^\.It (?!Sy )(.*) Ta (.*) Ta (.*)$", source, re.M)
    texts = sentences()
    with open(os.path.join(SRC, "tests/local.mk"), encoding="utf-8") as f:
        flow_tests = f.read()
    for what, said, test in rows:
        if not any(said in text for text in texts):
            fail("replicad-security.7: %s: no source says '%s'" % (what, said))
        if not os.path.exists(os.path.join(SRC, "tests/flow", test)):
            fail("replicad-security.7: %s: there is no tests/flow/%s" % (what, test))
        elif "/" not in test and "tests/flow/%s " % test not in flow_tests:
            fail("replicad-security.7: %s: tests/flow/%s is not among FLOW_TESTS" % (what, test))
    if len(rows) < BAD_INPUT_MIN:
        fail("replicad-security.7: %d rows of bad input, at least %d are known" % (len(rows), BAD_INPUT_MIN))
    return len(rows)


def main():
    pages = load_pages()
    lines = names()
    named = check_names(pages, lines)
    check_status(pages, lines)
    options = check_options(pages)
    check_pages(pages)
    check_lint(pages)
    check_programs(pages)
    said = check_sentences(pages)
    print("%d pages, %d names, %d options, %d sentences, %d failures" % (len(pages), named, options, said, len(failures)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

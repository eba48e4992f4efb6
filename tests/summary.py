#!/usr/bin/env python3
"""Reads the reports that tests/run.sh leaves behind, prints a table and "N passed, N failed, N skipped".

usage: summary.py RESULTS      one folder per suite, with *.xml (JUnit or GoogleTest), status ("EXIT_CODE SECONDS") and, where
                               tests were tried again after a failure, rerun (a name per line)
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def count(report):
    """-> (passed, [names of failed], skipped) of one XML file"""
    passed, failed, skipped = 0, [], 0
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname') or report.stem}.{case.get('name')}")
        elif case.find("skipped") is not None or case.get("status") == "notrun" or case.get("result") == "skipped":
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main():
    folder = pathlib.Path(sys.argv[1])
    totals, all_failed, tried_again = [0, 0, 0], [], []
    print(f"\n{'suite':<14} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for suite in sorted((s for s in folder.iterdir() if s.is_dir()), key=lambda s: (s / "status").stat().st_mtime):
        code, seconds = (int(word) for word in (suite / "status").read_text().split())
        passed, failed, skipped = 0, [], 0
        for report in sorted(suite.glob("*.xml")):
            try:
                numbers = count(report)
            except ElementTree.ParseError:
                numbers = (0, [f"{report.name} cannot be read"], 0)
            passed, failed, skipped = passed + numbers[0], failed + numbers[1], skipped + numbers[2]
        if code != 0 and not failed:  # it crashed before it could write a report
            failed = [f"{suite.name} ended with status {code}"]
        again = (suite / "rerun").read_text().splitlines() if (suite / "rerun").exists() else []
        passed -= len(again)  # pytest's report has an entry for each first try as well
        tried_again += [f"{suite.name}: {name}" for name in again]
        print(f"{suite.name:<14} {passed:>7} {len(failed):>7} {skipped:>8} {seconds:>8}")
        totals = [totals[0] + passed, totals[1] + len(failed), totals[2] + skipped]
        all_failed += [f"{suite.name}: {name}" for name in failed]
    for name in tried_again:
        print(f"  FLAKY   {name}: failed and was tried again; its first failure is a bug to be found")
    for name in all_failed:
        print(f"  FAILED  {name}")
    print(f"\n{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if all_failed or totals[0] == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

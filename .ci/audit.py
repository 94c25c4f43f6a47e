"""Compare the locked packages with the public advisories of OSV: fail on a known vulnerability.

Where the advisory service cannot be reached, say so and go on: an outage elsewhere should not stop every change here.
A package that pip-audit could not look up is named, and counts as not audited.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import requests

LOCK = Path(__file__).parents[1] / "requirements.lock"
OSV = "https://api.osv.dev/v1/query"


def audit(lock: Path = LOCK, service: str = OSV) -> int:
    """Print what pip-audit finds; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "audit.json"
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--osv-url", service, "--cache-dir", folder]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(report)]
        run = subprocess.run(command, capture_output=True, text=True)
        if not report.exists():
            return _without_report(service, run.stderr)
        packages = json.loads(report.read_text())["dependencies"]
    found = 0
    for package in packages:
        if "skip_reason" in package:
            print(f"audit: not audited: {package['name']} ({package['skip_reason']})")
        for advisory in package.get("vulns", ()):
            found += 1
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            print(f"audit: {package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    print(f"audit: {len(packages)} packages, {found} known vulnerabilities")
    return 1 if found else 0


def _without_report(service: str, complaint: str) -> int:
    host = urlsplit(service).hostname
    try:
        query = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}
        requests.post(service, json=query, timeout=15).raise_for_status()
    except requests.RequestException as error:
        print(f"audit: NOT DONE: the advisory service {host} cannot be reached ({type(error).__name__}).")
        return 0
    print(f"audit: pip-audit failed, though {host} can be reached:\n{complaint[-2000:]}")
    return 1


if __name__ == "__main__":
    sys.exit(audit())

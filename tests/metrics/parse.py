"""Parses what /metrics said with the parsers of the Prometheus client library: FORM FILE; prints name -> [type, label names]."""

import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as open_parser

form, file = sys.argv[1:]
with open(file, encoding="utf-8") as text:
    families = (open_parser if form == "open" else parser).text_fd_to_metric_families(text)
    told = {}
    for family in families:
        name = family.name
        if family.type == "counter":
            name += "_total"
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        values = [[sample.name, sample.labels, sample.value] for sample in family.samples]
        told[name] = {"type": family.type, "labels": sorted(labels), "samples": values}
print(json.dumps(told))

"""The keys of the view, for its users."""

KEYS = (
    "Everywhere",
    "  q            quit (back, on a page)      ?  these keys",
    "  arrows, j k  move      PgUp PgDn, Home End (g G)   Ctrl-L  draw anew",
    "  /            show only rows with a text; Enter keeps it, Esc drops it",
    "Tables",
    "  Tab          nodes, jobs, findings       z  one of them alone",
    "  < >  I       sort by another column; in the other direction",
    "  P M T        sort by CPU, memory, time   e  with jobs that have ended",
    "  Left Right   further columns             Enter  open the row",
    "  mouse        the heading sorts, a click chooses, two open",
    "Nodes",
    "  l s i        journal, serial line, details",
    "  d u          drain, resume               both ask before",
    "Jobs",
    "  l s i        output, script, details",
    "  x h u        cancel, hold, release       all ask before",
    "A figure with a ? is old: its source is silent. - is not known.",
)

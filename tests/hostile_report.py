"""A study whose every text is hostile to HTML, LaTeX and spreadsheets."""

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "closing": "</script><script>alert(2)</script><!-- <img src=x onerror=alert(3)>",
    "entity": "a & b &lt;i&gt; &amp;amp;",
    "bidi": "\u202e\u0661\u0662 שלום \u2066abc\u2069",
    "nul": "before\x00after",
    "separators": "one\u2028two\u2029three",
    "surrogate": "broken \ud83d half",
    "long": "x" * 100_000,
}

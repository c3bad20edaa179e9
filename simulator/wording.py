"""Titles, tags and the awkward texts that real markets carry."""

TAGS = (
    ("2", "Politics", "politics"),
    ("21", "Crypto", "crypto"),
    ("1", "Sports", "sports"),
    ("100265", "Geopolitics", "geopolitics"),
    ("596", "Culture", "pop-culture"),
    ("1401", "Tech", "tech"),
    ("120", "Finance", "finance"),
    ("84", "Weather", "weather"),
    ("74", "Science", "science"),
    ("450", "NFL", "nfl"),
    ("745", "NBA", "nba"),
    ("102127", "Up or Down", "up-or-down"),
    ("101191", "Mentions & “Quotes”", "mentions"),
    ("1013", "Earth ≥ 1.5 °C", "climate"),
)
UP_OR_DOWN_TAGS = (1, 11)

SUBJECTS = (
    "the Harbour Party", "Northgate United", "a category 5 hurricane", "the central bank", "Orion 4",
    "the film “Blue Glass”", "the Lakeside Foxes", "a new sea-ice record", "the transport bill", "Aurora Labs",
    "the mayor of Eastport", "copper", "the chess final", "the Velvet Tour", "the harbour bridge",
)  # fmt: skip
DEEDS = (
    "win", "be announced", "reach a new high", "be cancelled", "pass a vote", "be acquired", "resign",
    "beat the estimate", "finish first", "launch", "lose the lead", "be delayed",
)  # fmt: skip
DEADLINES = ("by March 31", "this month", "before July", "in Q3", "by year end", "on opening weekend", "this season")

HTML_HOSTILE = 'Will <script>alert("1")</script> & <b>\'Bobby\'</b> "Tables" win?'
NON_ASCII = "Wird Zürich Łódź schlagen? … 東京 vs. São Paulo 🏆"
TRAILING_NEWLINE = "Will the count end on time? \n"

COINS = (("btc", "Bitcoin"), ("eth", "Ethereum"), ("xrp", "XRP"), ("sol", "Solana"), ("doge", "Dogecoin"))

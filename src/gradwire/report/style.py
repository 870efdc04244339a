"""The page's colours, fonts and layout: one style sheet for light and dark screens, paper, and any width."""

# (light, dark): the baseline's grey, then six colours that colour-blind readers can tell apart and that are readable as
# text on the card. A test measures both.
CARD = ("#ffffff", "#14171b")
PALETTE = (
    ("#6b737d", "#98a2ae"),
    ("#3b6fe8", "#11adf9"),
    ("#9a6a0f", "#d9a91d"),
    ("#166342", "#6bf59c"),
    ("#521a61", "#f7bcf9"),
    ("#6a1305", "#dd5c48"),
    ("#6e3da9", "#7974fc"),
)


def colour(index: int) -> int:
    """The palette index of a run's colour: 0 for the baseline; the others cycle through the rest."""
    return 0 if index == 0 else 1 + (index - 1) % (len(PALETTE) - 1)


def variables() -> str:
    """The colours as CSS variables: light by default and on paper, dark if the reader's screen prefers it."""
    light, dark = ("".join(f"--run-{i}:{pair[side]};" for i, pair in enumerate(PALETTE)) for side in (0, 1))
    return f""":root{{--card:{CARD[0]};--ink:#16191d;--muted:#59616c;--rule:#e2e5ea;--soft:#f5f6f8;{light}}}
@media screen and (prefers-color-scheme:dark){{
:root{{--card:{CARD[1]};--ink:#e9ecf0;--muted:#9fa8b4;--rule:#2d333b;--soft:#1c2026;{dark}}}
}}
"""


CSS = """\
:root{color-scheme:light dark;--font:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
*{box-sizing:border-box}
body{margin:0;overflow-wrap:break-word;background:var(--card);color:var(--ink);font:16px/1.5 var(--font);
-webkit-text-size-adjust:100%}
main{max-width:1128px;margin:0 auto;padding:56px 24px 72px}
h1{font-size:clamp(27px,4.4vw,44px);line-height:1.12;letter-spacing:-.022em;font-weight:680;margin:0 0 16px;
max-width:24em;text-wrap:balance}
h2{font-size:19px;line-height:1.3;letter-spacing:-.01em;font-weight:650;margin:0 0 12px}
.kicker{margin:0 0 12px;color:var(--muted);font-size:14px}
.deck{margin:0 0 28px;font-size:18px;color:var(--muted);max-width:46em;text-wrap:pretty}
dl{display:flex;flex-wrap:wrap;gap:12px 36px;margin:0 0 40px;padding:16px 0;border:solid var(--rule);border-width:1px 0}
dt{font-size:12.5px;color:var(--muted)}
dd{margin:0;font-size:14.5px;overflow-wrap:anywhere}
figure,section{margin:0 0 56px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-variant-numeric:tabular-nums}
svg.narrow{display:none;max-width:560px}
ul{margin:0;padding-left:1.15em;max-width:52em}
li{margin:0 0 6px}
.remarks{background:var(--soft);border-radius:10px;padding:18px 22px 14px;margin-bottom:48px}
.remarks h2{font-size:16px;margin-bottom:6px}
.remarks,.reading{font-size:15px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;min-width:900px}
table{font-size:14.5px;font-variant-numeric:tabular-nums}
th,td{padding:10px 0 10px 20px;text-align:right;vertical-align:top;font-weight:400;border-bottom:1px solid var(--rule)}
thead th{vertical-align:bottom;color:var(--muted);font-size:13px;line-height:1.35;padding-bottom:8px;padding-top:4px}
thead .group{border:0;padding-bottom:0}
.group span{display:block;text-align:center;border-bottom:1px solid var(--rule);padding-bottom:4px}
tr>:first-child:is([rowspan],[scope=row]){text-align:left;padding-left:0}
tbody th{font-weight:600;max-width:17em}
thead tr:first-child th:first-child{width:22%}
thead tr:last-child th,small{white-space:nowrap}
tbody td{white-space:nowrap}
tr.best td{font-weight:650}
th i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:8px}
th code{display:block;margin-left:19px;max-width:20em;font-weight:400;overflow-wrap:anywhere}
small{display:block;font-size:12.5px;font-weight:400;color:var(--muted)}
code{font:12.5px/1.45 var(--mono);color:var(--muted)}
pre{margin:0;padding:16px 18px;background:var(--soft);border-radius:10px;white-space:pre-wrap;overflow-wrap:anywhere}
pre code{color:var(--ink);font-size:13.5px;user-select:all}
@media screen and (max-width:860px){
main{padding:32px 16px 48px}
.deck{font-size:16.5px}
dl{gap:10px 26px}
svg.wide{display:none}
svg.narrow{display:block}
tr>:first-child:is([rowspan],[scope=row]){position:sticky;left:0;background:var(--card)}
th code{max-width:9.5em;margin-left:0}
}
@media print{
main{padding:0;max-width:none}
figure,section,tr{break-inside:avoid}
h2{break-after:avoid}
table{font-size:10px;min-width:0}
th,td{padding-left:8px}
}
"""

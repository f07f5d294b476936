"""The texts that token goldens are made of: everything that tokenizers are known to stumble over.

Only characters assigned in Unicode 13 or before, so that the classes of characters (letter, number,
space) are the same in every implementation that is compared.
"""

SCRIPTS = [
    "The runner hands the baton to the next one, who is already moving.",
    "Größe, Öl, Straße; façade, naïve, œuvre, Ærøskøbing, İstanbul ığdır, Łódź, žluťoučký kůň",
    "Съешь ещё этих мягких французских булок, да выпей чаю. Їжак, ґанок, њ ћ џ.",
    "Ο δρομέας δίνει τη σκυτάλη· Ἀχιλλεύς ὠκύς.",
    "הרץ מעביר את השרביט. שָׁלוֹם עֲלֵיכֶם",
    "العدّاء يسلّم العصا إلى التالي. ٱلسَّلَامُ عَلَيْكُمْ ۝ ١٢٣ ۴۵۶",
    "دونده چوب را می‌دهد؛ می‌خواهم.",
    "धावक बैटन सौंपता है। क्षत्रिय ज्ञान १२३ हिन्दी",
    "দৌড়বিদ ব্যাটন দেয়। ক্ষ ১২৩ কোনো",
    "ஓட்டக்காரர் கோலை ஒப்படைக்கிறார். கொடு ௧௨௩",
    "రన్నర్ బ్యాటన్ ఇస్తాడు. ಓಟಗಾರ ಬ್ಯಾಟನ್ ಕೊಡುತ್ತಾನೆ. ഓട്ടക്കാരൻ ബാറ്റൺ",
    "ਦੌੜਾਕ ਬੈਟਨ ਦਿੰਦਾ ਹੈ। દોડવીર દંડો આપે છે. ଦୌଡ଼ାଳି",
    "ධාවකයා බැටන් පොල්ල දෙයි. ශ්‍රී ලංකා",
    "นักวิ่งส่งไม้ต่อ ๑๒๓ กำลังน้ำ",
    "ນັກແລ່ນສົ່ງໄມ້ ໑໒໓ ປະເທດລາວ",
    "အပြေးသမား တုတ်ကို ပေးသည်။ ၁၂၃ မြန်မာ",
    "អ្នករត់ហុចដំបង ១២៣ ភាសាខ្មែរ",
    "མི་རྒྱུགས་མཁན། ༡༢༣ བོད་སྐད",
    "მორბენალი ესტაფეტას გადასცემს. ᲛᲝᲠᲑᲔᲜᲐᲚᲘ",
    "Վազորդը փոխանցում է փայտիկը։ և",
    "ሯጩ በትሩን ያቀብላል። ፩፪፫",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ꭰꭱ",
    "ᐃᓄᒃᑎᑐᑦ ᐅᖃᐅᓯᖅ",
    "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ᠌ a\u180eb  \u180e c",
    "ⵜⴰⵎⴰⵣⵉⵖⵜ ߒߞߏ ߁߂߃",
    "选手把接力棒交给下一个人。一二三，〇〡〢。「引号」《书名》",
    "ランナーはバトンを渡す。ガギグゲゴ ｶﾞｷﾞ ㍿ ㌔ ー々〆",
    "주자가 배턴을 넘겨준다. ㄱㄴㄷ ㈜ 한글",
    "ꆈꌠꉙ ꀀꀁ 𞤀𞤁𞤂 𐐀𐐁 𝒜𝓑 𝟘𝟙𝟚 𓀀𓁐 𒀀𒁀 𠀀𠀁𪚥 🜁",
    "ﬁ ﬂ ﬃ ½ ¾ ⅓ Ⅳ ⅷ ① ⑳ ² ³ ⁴ ₅ ㊿ ⓐ ª º",
]

MARKS_AND_EMOJI = [
    "e\u0301 vs \u00e9, A\u030a vs \u00c5 vs \u212b, o\u0302\u0323 vs o\u0323\u0302 vs \u1ed9",
    "Z̷̡̛a̴̢̛l̵̨̛g̶̢̛ợ̴ t̸̡̛e̵̢̛x̶̨̛t̷̡̛",
    "\u1112\u1161\u11ab\u1100\u1173\u11af and \ud55c\uae00, \uac00\u11a8",
    "\u03a9 \u2126, K \u212a, \u2000x\u2001y, \u0344 \u0340, \uf900 \ufa0e \U0002f800",
    "\u0301 at the start; a\u0301\u0301\u0301; 1\u0301; \u20dd \u0e33",
    "\u0958 \u0915\u093c, \u0f43 \u0f42\u0fb7, \ufb1d \u05d9\u05b4",
    "👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩🇪🇫🇷 ❤️ ☎︎ 🤷🏾‍♀️",
    "text👩‍💻text 😀😀😀😀😀😀😀😀 1️⃣2️⃣#️⃣ ©®™",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ∑∏∫√∞≠≤≥ → ⇒ ↔ ∂/∂t",
    "┌──┬──┐│ab│▓▒░█▁▂▃ ▁ ▁▁ a▁b",
    "„quotes“ “curly” ‘single’ don’t ‚low’ «guillemets» — – ‐ … ‰ № § ¶ † ¿¡",
]

SPACES = [
    " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t", " \n", "\n ", " \n \n ",
    "a b  c   d    e     f", " leading", "  leading", "trailing ", "trailing  ", " both ",
    "a\nb\n\nc\n\n\nd", "a\r\nb\r\n\r\nc", "a \n b  \n\n  c", "x\t\ty \t z\t \tw",
    "tab\there \t\n\t\n end\n\n\n", "line  \n   line\n\t\tline", "word" + " " * 100 + "word",
    " " * 257, "\n" * 130, "\t" * 40 + "x", " " * 31 + "\n" + " " * 33 + "7",
    "a\u00a0b\u00a0\u00a0c \u00a0 d", "a\u2003b\u2009c\u200a\u200ad\u3000e\u3000\u3000f",
    "a\u0085b\u2028c\u2029d\u000be\u000cf", "a\u1680b\u202fc\u205fd",
    "zero\u200bwidth\u200cjoin\u200der\u2060x\ufeffbom", "\ufeffstart", "soft\u00adhyphen",
    "\u202eright\u202c \u2066to\u2069 left", "1  2   3    4", "  12  ", "a  1", "a   \n1", "( \n)",
    "  ..  ,,  !!  ", " .\n.\n\n.", ".\r\n\r\n.", "!\n \n!", "\u00a01 \u00a0a",
]

NUMBERS = [
    "0", "1234567890", "12 345 6789", "3.14159 2,718.28 -1e-10 0x1F 1_000", "a1b22c333d4444",
    "2024-02-29T23:59:59Z", "+49 (0) 30 1234-567", "1st 2nd 3rd 4th", "٣٫١٤ १२३४ ๔๕๖ ４５６７",
    "x²+y³ H₂O 1½ ⅧⅨ", "1000000000000000000000000000000000000000000000001", " 7 77 777 7777",
    "3's 4'll 5'RE", "1.2.3.4:80", "¹²³4⁵", "一1二22三333",
]

CONTRACTIONS = [
    "I'm you're he's she'd we'll they've it's don't can't",
    "I'M YOU'RE HE'S SHE'D WE'LL THEY'VE IT'S DON'T CAN'T",
    "I'Ll we'rE 'Ve 'sT 'tis 'twas 'S 'm'm'm ''s '' ' 's's",
    "it'\u017f it'\u017fo o'clock rock'n'roll y'all'd've 'll 're l'été d'Or",
    "I’m you’re ’s", "'d'D's'S't'T'm'M're'RE've'VE'll'LL'lL", "x's\ny's\n's", "_'s 3's ''ll",
    "'STOP 'Sand 'TIS 'Then 'REd 'REST 'VEst 'Very 'Mad 'MAD 'LLAMA 'Lloyd 'Dare O'DELL o'Sullivan",
]

CODE = [
    "int main(void)\n{\n    for (int i = 0; i < 10; i++)\n        printf(\"%d\\n\", i);\n"
    "    return 0;\n}\n",
    "def f(x, *args, **kw):\n\treturn {k: v**2 for k, v in kw.items() if not x!=v}  # why?\n",
    "<div class=\"a b\">&nbsp;<br/></div>\n<!-- x -->\n", "a+=b;c--;++d;e<<=1;f&&!g||h?i:j;",
    "{\"k\": [1, 2.5, null, true], \"\\u00e9\": \"\\n\"}", "SELECT * FROM t WHERE a <> 'b''c';",
    "https://example.org/a%20b?q=1&r=%C3%A9#x user@host.example C:\\dir\\file.txt ~/.bashrc",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case dot.case HTTPServer2XMLv3",
    "$$ x^{2}_{i} \\frac{a}{b} $$ **bold** _it_ `code` ```c\n```\n- [x] item\n1. one\n",
    "=" * 80 + "\n" + "-" * 79 + "\n" + "#" * 33 + " * * * ///// ....... !!!!???",
    "\\x00\\n\\t%s%d${VAR}$(cmd)`cmd`;|&><", "0b1010 0o777 1e9 1E+9f 0xDEADBEEFull .5 5.",
]

ODD = [
    "", "a", "\u0000", "a\u0000b\u0000\u0000", "".join(chr(c) for c in range(32)),
    "".join(chr(c) for c in range(127, 160)), "".join(chr(c) for c in range(33, 127)),
    "".join(chr(c) for c in range(0xa0, 0x180)), "\u001b[31mred\u001b[0m\u0007\u0008",
    "\ufffd \ufffe \uffff \U0001ffff \U0010ffff \ue000 \uf8ff \U000f0000", "\u0378 \u0530 \u05ff",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "a" * 1000, "ab" * 300, "aaab" * 100 + "b" * 77, "é" * 150, "中" * 200, "あ" * 64,
    "x" + "\u0301" * 40 + "\u0316" * 24, "pneumonoultramicroscopicsilicovolcanoconiosis" * 4,
    "AGCTTTTCATTCTGACTGCAACGGGCAATATGTCTCTGTGTGGATTAAAAAAAGAGTGTCTGATAGCAGC",
    "dGhpcyBpcyBiYXNlNjQgdGV4dCB0aGF0IGlzIGZhaXJseSBsb25nIGFuZCBkdWxs+/==",
    "unreachable unreachable  unreachableunreachable baton batons",
    "loooooooooooooooooooooooooong wooooooord!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
    "MiXeD cAsE tExT WITH ALLCAPS and Titlecase ǅ ǈ ῼ ẞ ŉ ı İ",
]

SPECIAL_LOOKALIKES = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|><|im_end|><|endoftext|>",
    "<|im_start |> <| im_end|> <|im_end| > |im_end|> <|im_end <|im <|im| <|", "a<|im_end|>b",
    " <|im_end|> ", "<|im_end|>\n\n<|im_end|>", "<|<|im_end|>|>", "<|im_<|im_end|>start|>",
    "<think>why?</think> because", "x <think> y </think>z<think", "<s>[INST] hi [/INST]</s>",
    "<<SYS>>\n<</SYS>>", "<0x41><0x0A><unk>", "<|endoftext|><|im_startx|>",
    "5<|im_end|>6 <think>  <think>1", "e<|im_end|>\u0301 e<think>\u0301",
]

# One text with all of it, so that what is next to what is tested too.
PARTS = [SCRIPTS, MARKS_AND_EMOJI, SPACES, NUMBERS, CONTRACTIONS, CODE, ODD, SPECIAL_LOOKALIKES]
TEXTS = [text for part in PARTS for text in part]
TEXTS.append(" ".join(text for text in SCRIPTS[::3] + NUMBERS + CONTRACTIONS + CODE[::2]))

# What the small vocabularies are trained on.
TRAINING = SCRIPTS + MARKS_AND_EMOJI + NUMBERS + CONTRACTIONS + CODE + SPACES[13:26] + [
    "A baton is a short stick. The first runner starts with it, runs as fast as she can, and gives "
    "it to the second runner inside the zone. The second runner is moving before the baton comes.",
    "If the baton falls, the one who dropped it picks it up. Nobody runs a leg twice, and nobody "
    "waits for a runner who has not started. It's the baton that wins, not the runner.",
    "In 1998 and 2007, in 12 of 345 races, 6,789 batons were dropped; that's 10 or 11 a race.",
    "    if (x == 0)\n        return;\n\n    while (x > 0) {\n        x -= 1;\n    }\n",
]

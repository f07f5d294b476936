"""The small templates that make_chat.py renders: every operator, filter, test, statement, rule of
white space and error, one or a few to a snippet. None prints what Python shows with an address."""

VARIABLES = {
    "s": "hello", "e": "", "sp": "  padded \n", "u": "Grüße, 世界! 👩‍🚀", "q": "it's \"q\" \\ \n\t",
    "html": "<a href='x'>&\"</a>", "i": 7, "n": -3, "z": 0, "f": 2.5, "g": -0.125, "big": 1e22,
    "tiny": 1e-7, "whole": 3.0, "t": True, "no": False, "nil": None,
    "l": [3, 1, 2], "el": [], "ls": ["b", "A", "c", "a"], "mixed": [1, "x", None, 2.5, True],
    "d": {"b": 1, "a": 2, "C": 3}, "ed": {}, "deep": {"x": {"y": [{"z": "found"}]}},
    "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 25, "tags": []},
               {"name": "Cid", "age": 30}],
    "items": "not a method", "keyed": {"items": "own", "get": 1, "keys": [1]},
    "nested": [[1, 2], [3], []], "lines": "one\ntwo\n\nfour", "crlf": "a\r\nb\rc\x0bd\u2028e",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}],
}

EXPRESSIONS = r"""
1|-1|+1|1_000|0x1f|0o17|0b101|1.5|1e3|1.5e-3|1_0.2_5|00|true|True|false|none|None
'a'|"b"|'a' 'b' "c"|'it\'s'|"\"q\""|'\n'|'\t|\r|\\'|'\x41\u00e9\U0001f600'|'\101\0'|'\é\世'|'\q'|'a\
b'|''|'ünï'
i|f|g|big|tiny|whole|nil|t|missing|s|u|l|d|mixed|deep|el|ed|nested|q|[q, u]|[html]
[1, 2,]|[]|(1, 2)|(1,)|()|(1)|{}|{'a': 1, 'b': [1]}|{1: 2, 1.0: 3, true: 4}|{'a': 1,}|{(1, 2): 3}|1, 2|1,
i + 1|i - 10|i * 3|i / 2|i // 2|n // 2|i % 3|n % 2|n % -2|i ** 2|2 ** -1|2 ** 0.5|2 ** 3 ** 2|-2 ** 2
i / 7|f * 2|f // 1|g % 1|-7.5 // 2|-7.5 % 2|7.5 % -2|1e16|1e15 + 0.5|1.0|0.1 + 0.2|1e300 * 1e10|-(0.0)|-0.0
5 // -2|5 % -3|true + true|t * 3|-t|+t|+f|- 3|not t|not e|not not s
s + ' x'|'x' * 3|3 * 'x'|'x' * 0|'x' * -1|[1] * 2|2 * [1, 2]|[1] + [2]|(1,) + (2,)|(1,) * 2|s ~ 1 ~ nil ~ t ~ 1.0|1 ~ 2|missing ~ 'x'
1 + 'a'|'a' + 1|[1] + (1,)|nil + 1|{} + {}|'a' - 'b'|1 / 0|1 // 0|1 % 0|1.0 / 0|0 ** -1|missing + 1|1 + missing|missing * 2|-missing|-'a'|+[1]|not missing
1 == 1.0|1 == true|'a' == 'a'|'a' == 1|nil == none|missing == missing|missing == none|[1, 2] == [1, 2]|(1,) == [1]|{'a': 1} == {'a': 1.0}|d == d|1 != 2
1 < 2|1 < 2 < 3|1 < 3 < 2|3 > 2 >= 2|'a' < 'b'|'é' > 'z'|[1, 2] < [1, 3]|[1] < [1, 0]|(1, 'a') <= (1, 'a')|2 <= 1.5|true < 2|1 == 1 == 1|1 < 'a'|nil < 1|[1] < (1,)|missing < 1|1 > missing|{} < {}
1 in l|9 in l|9 not in l|'b' in d|'x' in d|'ell' in s|'' in s|1 in 'a'|'a' in 5|'a' in nil|missing in l|1 in missing|'a' not in missing|[1] in d|1.0 in l|2 in (1, 2)|nil in mixed|not 1 in l|'C' in d.keys()|1 in d.values()|('b', 1) in d.items()|2 in range(3)
t and s|no and s|no or s|e or 'x'|t or missing.x|no and missing.x|1 and 2 and 3|0 or '' or []|t and not no|not t or t|1 or 2 and 0
'y' if t else 'n'|'y' if no else 'n'|'y' if no|'y' if t|('y' if no) is defined|1 if no else 2 if no else 3|(1 if t) + 1|'a' if t else 'b' ~ 'c'
s[0]|s[-1]|s[10]|u[4]|u[-1]|s['x']|l[0]|l[-1]|l[5]|l[true]|l['0']|l[1.0]|l[nil]|d['a']|d['zz']|d[1]|d[[1]]|d.a|d.zz|d.zz.x|d['zz']['x']|nil.x|nil[0]|i.x|i[0]|f['real_x']|deep.x.y[0].z|deep['x'].y.0.z|deep.x.y.5|deep.q.y|missing.x|missing[0]|l.0|nested.0.1|(1, 2)[1]|range(5)[2]|range(5)[-1]|range(5)[9]
s[1:3]|s[:2]|s[2:]|s[:]|s[::-1]|s[::2]|s[-3:-1]|s[3:1]|s[10:]|u[1:5]|u[::-1]|u[::3]|u[-2:]|l[1:]|l[::-1]|l[:-1]|l[5:1:-1]|l[-1:0:-1]|l[::2]|(1, 2, 3)[1:]|range(10)[2:8:2]|range(10)[::-1]|range(0, 10, 3)[1:]|s[nil:2]|s[true:]|s['a':]|s[1.0:]|s[::0]|d[1:]|i[1:]|nil[1:]|missing[1:]|l[:missing]|e[::-1]|s[-100:100]|s[100:-100:-1]
keyed.items|keyed['items']|keyed.get|keyed['get']|keyed.get('keys')|keyed.keys() | list|d.items() | list|d.keys()|d.values()|d.items()|d.keys() | length|d.get('a')|d.get('zz')|d.get('zz', 5)|d.get('zz', none)|d.get()|d.get([1])|d.get('a', default=1)|d.copy()|d.pop('a')|d.pop|d.update({})|d.clear is defined|d.setdefault('x', 1)|l.append(1)|l.append|l.pop is defined|l.count(1)|l.index(2)|l.index(9)|l.copy()|(1, 2, 1).count(1)|(1, 2).index(2)|l.sort()|d.__class__|s.__class__.x|s.__class__|s._x|d._x|l.__len__()|s.nope|s.nope()
s.upper()|s.UPPER()|'HeLLo'.lower()|'hello world'.title()|"they're bill's".title()|'hELLO wORLD'.capitalize()|'aBc'.swapcase()|'straße'.upper()|'ÀÉ ΣΑΣ'.lower()|'ΑΣ. Σ'.lower()|'ǆ ŉ ﬁ'.title()|'ﬁ x'.capitalize()|'İ'.lower()|'ß'.title()|'ა'.upper()|u.upper()
sp.strip()|sp.lstrip()|sp.rstrip()|sp.rstrip('\n')|'xxaxx'.strip('x')|'xyaxy'.strip('yx')|'abc'.strip('')|'ééaé'.strip('é')|'\u00a0\u3000a\x1f'.strip()|'<think>\n'.strip('\n')|s.strip(none)|s.strip(1)|'..a'.lstrip('.')|s.strip(chars='h')
s.startswith('he')|s.startswith('lo')|s.endswith('lo')|s.startswith('')|s.startswith(('x', 'h'))|s.endswith(())|s.startswith(['h'])|s.startswith('l', 2)|s.startswith('l', 2, 3)|s.endswith('l', 0, 4)|s.startswith('x', 9)|s.startswith('', 9)|s.startswith(1)|s.startswith()|s.startswith(missing)
'a,b,,c'.split(',')|'a b  c '.split()|' a b '.split(' ')|'a b c'.split(none, 1)|'a b c'.split(' ', 1)|'a b c d'.split(maxsplit=2)|'abc'.split('')|''.split()|''.split(',')|'a--b--c'.split('--')|'a--b'.split('--')[0]|'</think>x'.split('</think>')[-1]|'a b c'.rsplit(' ', 1)|'a b c'.rsplit()|' a b c '.rsplit(none, 1)|'a,b,c'.rsplit(',')|'aXbXc'.split('X', 0)|' x y '.split(none, 0)|'\u3000a\u2003b'.split()|s.split(1)|'a.b'.split(sep='.')
lines.splitlines()|lines.splitlines(true)|crlf.splitlines()|crlf.splitlines(keepends=true)|''.splitlines()|'a\n'.splitlines()|'a\n\n'.splitlines()
s.replace('l', 'L')|s.replace('l', 'L', 1)|s.replace('', '-')|s.replace('', '-', 3)|e.replace('', 'x')|s.replace('z', 'y')|s.replace('l', '')|s.replace('hello', '')|u.replace('世', 'W')|s.replace('l')|s.replace('l', 1)|s.replace('l', 'L', -1)|s.replace('l', 'L', 0)|'aaa'.replace('aa', 'b')
s.find('l')|s.find('z')|s.rfind('l')|s.index('l')|s.index('z')|s.rindex('l')|s.count('l')|s.count('')|s.find('l', 3)|s.find('l', 0, 2)|s.rfind('l', 0, 3)|u.find('世')|u.rfind('!')|s.find('')|s.find('', 9)|s.count('l', 3)|'aaaa'.count('aa')|s.find('o', -1)|s.find('h', -99, 99)
', '.join(ls)|''.join([])|','.join('abc')|','.join(d)|','.join([1, 2])|','.join([missing])|','.join(1)
'a=b=c'.partition('=')|'a=b=c'.rpartition('=')|'abc'.partition('=')|'abc'.rpartition('=')|s.partition('')|s.removeprefix('he')|s.removeprefix('x')|s.removesuffix('lo')|s.removesuffix('x')|s.removesuffix('')
s.ljust(8)|s.rjust(8)|s.center(8)|s.center(9)|s.center(10, '*')|'ab'.center(5, '-')|'abc'.center(6, '-')|s.ljust(8, 'ab')|s.ljust(2)|'42'.zfill(5)|'-42'.zfill(5)|'+4'.zfill(2)|''.zfill(2)|s.ljust()|u.rjust(20, '世')
s.isalpha()|'a1'.isalnum()|'12'.isdigit()|'²'.isdigit()|'½'.isnumeric()|'٣'.isdecimal()|' \n'.isspace()|''.isspace()|s.isascii()|u.isascii()|s.islower()|'A'.isupper()|'A1'.isupper()|'Ab Cd'.istitle()|'AB'.istitle()|''.isalpha()|'ß'.islower()
'{} {}'.format(1, 'a')|'{1}{0}'.format(1, 'a')|'{x}!'.format(x=u)|'{{}}'.format()|'{}'.format()|'{'.format()|'}'.format()|'{x}'.format(y=1)
'%s' % 1|'%s-%s' % (1, 'b')|'%d%%' % 5|'%5d|%-5d|%05d' % (1, 2, 3)|'%.2f' % f|'%s' % nil|'%r' % s|'%s' % [1]|'%s' % missing|'%s' % d|'%(a)s' % d|'%(zz)s' % d|'%d' % 'a'|'%d' % 2.7|'%s' % (1, 2)|'%s %s' % (1,)|'%x %X %o' % (255, 255, 8)|'%e' % 12345.678|'%g' % 0.0001|'%c%c' % (65, 'b')|'%10s|%-6s|' % (s, s)|'%.2s' % s|'%q' % 1|'%' % 1|'x' % ()|'x' % []|'x' % 1|'%5.1f' % 3.14159|'%+d % d' % (1, 2)|'%s' % true|'%i' % t
range(3)|range(1, 4) | list|range(5, 0, -2) | list|range(0) | list|range(3) | length|range(0, 1, 0)|range('a')|range()|range(1.5)|range(100001)|range(100000) | length|range(0, 10, 2)|range(3) | last|range(3) == range(0, 3)|range(3) | reverse | list|range(-3) | list
dict(a=1, b=2)|dict({'a': 1}, b=2)|dict([('a', 1)])|dict(d.items())|dict([1])|dict(1)|dict(1, 2)|dict(**d)
namespace(a=1).a|namespace({'a': 2}).a|namespace(a=1)|namespace().x|namespace(a=1)['a']|namespace(_a=1)|namespace(1)
strftime_now('%Y-%m-%d')|strftime_now('%d %b %Y')|strftime_now('%A %j %H:%M:%S %p %y')|strftime_now('%f|%z|%Z|%%')|strftime_now('')|strftime_now(format='%B')|strftime_now(1)|strftime_now()|strftime_now('ü %d')
raise_exception('stop: ' ~ i)|raise_exception(message='m')|raise_exception(5)|raise_exception()|raise_exception('ünï')
s()|nil()|missing()|d()|(1)(2)|l[0](1)|missing.x()|s.upper|length
s | upper | lower | capitalize|'hello-world (foo) [bar' | title|'hELLO wORLD' | title|"they're" | title|'ﬁx' | title|1 | upper|nil | upper|missing | upper | length|u | upper|'éa' | capitalize
sp | trim|'xxaxx' | trim('x')|sp | trim(none)|5 | trim|missing | trim|sp | trim | length|'abc' | trim(1)|sp | trim(chars=' ')
s | length|l | length|d | length|u | length|e | length|missing | length|5 | length|nil | length|d.items() | length|l | count|(1, 2) | length
s | list|d | list|u[7:10] | list|el | list|missing | list|5 | list|nil | list|d.items() | list|(1, 2) | list
l | join|l | join(', ')|ls | join('-')|mixed | join(',')|people | join(', ', attribute='name')|people | join(', ', 'age')|s | join('.')|d | join|missing | join|5 | join|l | join(1)|[missing, 1] | join('x')|nested | join|people | join(attribute='tags.0')
l | first|l | last|s | first|s | last|el | first|el | last|d | first|d | last|u | last|missing | first|missing | last|5 | first|d.values() | last|(el | first) is defined|(1, 2) | last
l | sort|ls | sort|ls | sort(case_sensitive=true)|l | sort(reverse=true)|ls | sort(true)|people | sort(attribute='age') | map(attribute='name') | list|people | sort(attribute='age,name', reverse=true) | map(attribute='name') | list|mixed | sort|d | sort|missing | sort|[true, 0, 2.5] | sort|nested | sort|['b', 'B', 'a', 'A'] | sort|people | sort(attribute='zz')
l | reverse | list|s | reverse|u | reverse|d | reverse | list|missing | reverse|5 | reverse|(1, 2) | reverse | list|d.items() | reverse | list|el | reverse | list|(l | map('string') | reverse)
ls | unique | list|[1, 1.0, true, 2] | unique | list|['a', 'A'] | unique | list|['a', 'A'] | unique(true) | list|people | unique(attribute='age') | map(attribute='name') | list|[[1], [1]] | unique | list|missing | unique | list
l | min|l | max|ls | min|ls | max|ls | max(case_sensitive=true)|el | min|people | max(attribute='age')|people | min(attribute='age')|mixed | max|missing | max|d | max
l | sum|people | sum(attribute='age')|people | sum('age', 10)|el | sum|[0.1, 0.2] | sum|ls | sum|l | sum(start=1)|[true, true] | sum
l | map('string') | list|l | map('multiply') | list|ls | map('upper') | join|people | map(attribute='name') | list|people | map(attribute='zz') | list|people | map(attribute='zz', default='-') | list|people | map(attribute='tags.0', default='?') | list|people | map(attribute='tags') | map('length') | list|people | map() | list|[sp] | map('trim') | list|nested | map('first') | list|nested | map('join', ',') | list|ls | map('replace', 'a', 'x') | list|nested | map(attribute=0) | list|missing | map('upper') | list|el | map('nofilter') | list|people | map(attribute='name', x=1) | list|people | map('attr', 'x') | list|[-1.5, 2] | map('abs') | list|deep | map('upper') | list
people | selectattr('tags') | map(attribute='name') | list|people | selectattr('age', 'equalto', 30) | map(attribute='name') | list|people | selectattr('age', '==', 25) | list | length|people | selectattr('tags', 'defined') | list | length|people | rejectattr('tags', 'undefined') | list | length|people | rejectattr('age', 'gt', 26) | map(attribute='name') | list|people | selectattr('name', 'in', ['Ann', 'bob']) | list | length|people | selectattr() | list|people | selectattr('age', 'nope') | list|el | selectattr('age', 'nope') | list|people | selectattr('tags.0', 'eq', 'x') | map(attribute='name') | list|people | selectattr('name', 'string') | first|people | rejectattr('name') | list|messages | selectattr('role', 'equalto', 'user') | list | length
l | select('odd') | list|l | reject('odd') | list|mixed | select | list|mixed | reject | list|mixed | select('string') | list|l | select('gt', 1) | list|l | select('in', [1, 2]) | list|l | select('divisibleby', 3) | list|d | select('equalto', 'a') | list|l | select('nope') | list|l | select('gt') | list|missing | select | list|(l | select('odd')) | length|(l | select('odd'))[0]|(l | select('odd')) is defined|(el | select) and 'x'|l | select('odd') | first|[nil, 1] | reject('none') | list|['a', ''] | select | join('+')|builtin | reject('equalto', 'x') | join
missing | default('x')|missing | default|nil | default('x')|nil | default('x', true)|e | default('x', boolean=true)|s | default('x', true)|d.zz | default(5)|missing | d('y')|missing | default(default_value=3)|missing.x | default(1)|0 | default(1, true)
5 | string|nil | string|f | string|l | string|missing | string | length|s | string|t | string ~ 'x'
'5' | int|'abc' | int|'abc' | int(-1)|'1.9' | int|2.9 | int|-2.9 | int|nil | int|t | int|'0x1f' | int(0, 16)|'1f' | int(base=16)|'  42 ' | int|'1_000' | int|'1__0' | int|'' | int|l | int|missing | int|'-7' | int|'1e3' | int|'012' | int|'0b11' | int(base=0)|'012' | int(base=0)|'z' | int(base=36)|'inf' | int|'9' | int(base=8)|'+5' | int|'_5' | int
'1.5' | float|'abc' | float|'abc' | float(2.0)|5 | float|nil | float|t | float|'1e3' | float|'nan' | float|'inf' | float|'1_0.5' | float|missing | float|' 2 ' | float|'-inf' | float|'0x1' | float
n | abs|g | abs|s | abs|t | abs|missing | abs|-0.0 | abs
2.5 | round|3.5 | round|-2.5 | round|2.675 | round(2)|f | round(1)|7 | round|1234 | round(-2)|1250 | round(-2)|1350 | round(-2)|2.1 | round(method='ceil')|2.9 | round(0, 'floor')|2.123 | round(2, 'ceil')|7 | round(method='floor')|2.5 | round(method='x')|s | round|1234.5 | round(-2)|0.1 | round(20)|missing | round|1e22 | round(1)|2.5 | round(1, 'common')|t | round
d | tojson|l | tojson|s | tojson|u | tojson|q | tojson|html | tojson|nil | tojson|t | tojson|i | tojson|f | tojson|whole | tojson|big | tojson|tiny | tojson|el | tojson|ed | tojson|deep | tojson|nested | tojson|(1, 2) | tojson|{1: 'a', none: 'b', true: 'c', 1.5: 'd'} | tojson|{(1,): 2} | tojson|missing | tojson|[missing] | tojson|range(3) | tojson|d.items() | tojson|d.keys() | list | tojson|'\x00\x1f\x7f\x80\u2028' | tojson|'\b\f\n\r\t/' | tojson
d | tojson(indent=2)|deep | tojson(indent=4)|deep | tojson(indent=0)|deep | tojson(indent='> ')|nested | tojson(indent=1)|ed | tojson(indent=2)|[ed, el] | tojson(indent=2)|d | tojson(indent=none)|d | tojson(separators=(',', ':'))|d | tojson(separators=[',', ':'], indent=1)|d | tojson(sort_keys=true)|u | tojson(ensure_ascii=true)|u | tojson(true)|'\x7fé' | tojson(ensure_ascii=true)|deep | tojson(indent=-1)|d | tojson(indent=true)|d | tojson(indent=1.5)|d | tojson(nope=1)|d | tojson(separators=',')|d | tojson(separators=', ')|{'b': 1, 2: 1} | tojson(sort_keys=true)|('nan' | float) | tojson|[('inf' | float), -('inf' | float)] | tojson|d | tojson | safe|d | tojson ~ 'x'|'x' ~ d | tojson
lines | indent|lines | indent(2)|lines | indent(2, true)|lines | indent(2, true, true)|lines | indent('> ')|lines | indent(width=1, blank=true)|'a' | indent|e | indent(2, true)|crlf | indent(2)|5 | indent|'a\n' | indent(2)|'\n' | indent(2, true)|lines | indent(first=true)|missing | indent
s | replace('l', 'L')|s | replace('l', 'L', 1)|s | replace('l', 1)|5 | replace(5, 6)|s | replace('l')|s | replace(old='l', new='_', count=1)|nil | replace('o', '0')|s | replace('l', 'L', none)|missing | replace('a', 'b')
d | items | list|ed | items | list|missing | items | list|l | items | list|keyed | items | first|nil | items | list
d | dictsort|d | dictsort(true)|d | dictsort(by='value')|d | dictsort(false, 'value', true)|d | dictsort(reverse=true)|d | dictsort(by='x')|missing | dictsort|l | dictsort|{1: 2, 'a': 3} | dictsort
l | batch(2) | list|l | batch(2, 'x') | list|l | batch(5) | list|el | batch(2) | list|l | slice(2) | list|l | slice(2, 'x') | list|range(10) | slice(3) | map('list') | list|range(10) | slice(4, '-') | list|l | slice(0) | list|l | batch(0) | list|l | slice(-1) | list
people | groupby('age') | list|people | groupby('name') | map('first') | list|people | groupby('tags', default='-') | length|people | groupby('zz', default='d') | map(attribute=0) | list|people | groupby('nope')
'a long line of words here' | truncate(12)|'a long line of words here' | truncate(12, true)|'a long line' | truncate(9, end='…')|'a long line' | truncate(5, leeway=0)|'a long line' | truncate(5, true, '', 0)|s | truncate(5)|s | truncate(2)|s | truncate(3, leeway=0)|5 | truncate
'ab' | center(6)|'ab' | center(5)|s | center(3)|5 | center(4)|'a b, c_d é' | wordcount|e | wordcount
html | e|html | escape|html | forceescape|html | safe|html | e | e|html | e | forceescape|5 | e|'a' ~ (html | e)|'<' + (html | safe)|(html | safe) + '<'|(html | safe) ~ '<'|[html | safe]|(html | e) | upper|(html | safe) | length|('<b>' | safe) * 2|('a,<' | safe).split(',')|(s | safe) is escaped|s is escaped|('<' | safe).join(['<', '>'])|['<', '<' | safe] | join('<')|('<x>' | safe) | replace('x', '<')|('<x>' | safe).replace('x', '<')|('a<' | safe)[0:2] + '<'|('<' | safe) | tojson|('<' | safe) == '<'|('<' | safe) | string + '<'|('< ' | safe) | trim + '<'
'%s-%s' | format(1, 'a')|'%(x)s' | format(x=1)|'%s' | format|'%s' | format(1, x=2)|'%d' | format('a')
'a b/c?d=é&' | urlencode|{'a b': 'c/d', 'e': 1} | urlencode|[('x', 'y z')] | urlencode|5 | urlencode|nil | urlencode
s | attr('upper')|d | attr('a')|d | attr('zz') | default('none')|(namespace(a=3) | attr('a'))|missing | attr('x')
s is defined|missing is defined|missing is not defined|missing is undefined|d.zz is defined|d.a is defined|nil is none|missing is none|nil is defined|e is none
s is string|i is string|nil is string|missing is string|d is mapping|l is mapping|deep.x is mapping|keyed is mapping
l is iterable|s is iterable|d is iterable|i is iterable|nil is iterable|missing is iterable|d.items() is iterable|range(2) is iterable|(l | select) is iterable
l is sequence|s is sequence|d is sequence|i is sequence|nil is sequence|missing is sequence|(1,) is sequence|range(2) is sequence|d.keys() is sequence|(l | select) is sequence|namespace() is sequence
i is number|f is number|t is number|s is number|nil is number|missing is number|i is integer|f is integer|t is integer|f is float|i is float|whole is float|t is boolean|i is boolean|nil is boolean
t is true|i is true|1 is true|no is false|z is false|nil is false|t is not true
i is odd|i is even|n is odd|n is even|z is even|f is odd|3.0 is odd|s is odd|nil is even|t is odd|9 is divisibleby 3|9 is divisibleby(2)|9 is divisibleby|9 is divisibleby 0|missing is odd
i is eq 7|i is equalto 7|i is == 7|i is sameas 7|i is ne 7|i is != 8|i is gt 6|i is greaterthan 6|i is ge 7|i is lt 8|i is lessthan 7|i is le 7|i is > 6|i is in [7]|i is in l|s is in 'hello world'|i is not in [7]|nil is sameas none|t is sameas true|l is sameas l|[1] is sameas [1]|1 is sameas true|i is equalto|1 is gt 'a'|i is eq(7)|l is eq [3, 1, 2]|d is eq {'a': 2}
s is lower|s is upper|'ABC' is upper|'A1' is upper|'1' is lower|e is lower|i is lower|missing is lower|'ǅ' is upper|u is lower
s is callable|range is callable|namespace is callable|missing is callable|s.upper is callable|raise_exception is callable
'upper' is filter|'nope' is filter|'odd' is test|'nope' is test|5 is filter|[1] is filter|'urlize' is filter
s is nope|s | nope|('x' if no else s) | nope|'x' if t else (s | nope)|(s | nope) if no else 'x'|s is nope if no else 'x'|s is defined and t|s is defined or no|s is string and s is defined|i is odd is true|not s is defined|not s is string or t|s is defined == true|i + 1 is odd|-i is odd|- i | abs|-3 | abs|n | abs ~ 'x'|i is divisibleby 7 and t|s is string if t else 1
(s)|((s))|(s | upper)[0]|(s ~ s) | length|[s, u] | map('length') | list|{'k': s}['k']|{'k': s}.k|[1, 2][0]|'abc'[1]|s.upper().lower().title()|s.upper()[1:3]|s.split('l')[0][::-1]|messages[0].content|messages[-1]['role']|messages[5].role|messages[5]|messages[0].tool_calls|messages[0].tool_calls is defined|messages | length|messages[1:] | length|messages|messages | tojson
s s|1 2|(1|[1|{1}|{1:}|)|]|1 +|* 1|'abc|"x|s.|s[|s[]|s[1,2]|s.1.2.3|@|1 ! 2|$|a = 1|s | |s |upper(|f(a=1, 2)|dict(a=1, a=2)|dict(**d, **d)|s.upper(*[])|'a,b'.split(*[','])|'a b c'.split(**{'maxsplit': 1})|s.upper(**5)|s.upper(*5)|'a'.join(*[['x', 'y']])|range(*[1, 3]) | list|not|in l|l in|is s|s is|s is not|if|1 if|if 1|a.b.|1..x|''.''|{{}}
"""

TEMPLATES = [
    # Text and white space.
    "", "\n", "\n\n", "a", "a\n", "a\n\n", "a\r\nb\rc\n", "{", "{ {", "}}", "%}", "#}", "{{", "{%", "{#", "{{ s",
    "{% if t", "{# open", "{#}", "{##}x", "{# a #}b", "{#- a -#} b", " {#- a #}\nb", "  {# a #}\n b",
    "a {# x\ny #} b\n{# z #}\nc", "{#+ a +#}\n b", "a\n  {#+ a #}b",
    "a {{ s }} b", "a {{- s -}} b", "a {{ s -}}\n\n b", "a\n\n {{- s }}", "{{+1}}", "{{-1}}", "{{- 1}}", "a {{+ 1 }}",
    "{{s}}\n{{s}}\n", "{{ s }}\n\n", "{% if t %}\nx\n{% endif %}\ny", "  {% if t %}\n  x\n  {% endif %}\n  y",
    "{%- if t %}\nx\n{%- endif %}\ny", "  {%+ if t %}\n  x\n  {%+ endif %}\n  y", "{% if t +%}\nx\n{% endif +%}\ny",
    "a {% if t %} x {% endif %} b", "a {%- if t -%} x {%- endif -%} b", "\t{% if t %}\t\n\tx{% endif %}\t",
    "a\n \t {% if t %}x{% endif %}", "a\n \t b {% if t %}x{% endif %}", "{{ s }}  {% if t %}x{% endif %}",
    "{{ s }}\n  {% if t %}x{% endif %}\n\n", "  {{ s }}\n", "\u3000{% if t %}x{% endif %}",
    "a\n\u00a0{% if t %}x{% endif %}", "a \u2003{%- if t %}x{% endif %}", "{% if t -%}\u3000\n x{% endif %}",
    "{% if t %}{% endif %}\n\nx", "x{% if t %}\n\n{% endif %}y", "{%if t%}x{%endif%}", "{%\nif\nt\n%}x{%\nendif\n%}",
    "{% if t %}\r\nx\r\n{% endif %}\r\ny\r\n", "x\n{%- if t %}\n y\n{%- endif -%}\n z", "{{ 'a' -}}   {{- 'b' }}",
    "{{ '}}' }}", "{{ '%}' }}", "{% if '%}' %}x{% endif %}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}}}", "{{ '{{' }}",
    "{% raw %}{{ x }}{% if %}{# #}{% endraw %}", "{% raw %}\n  x\n{% endraw %}\ny", "a {%- raw -%} {{ x }} {%- endraw -%} b",
    "  {% raw %} x {% endraw %}", "a\n  {% raw %}\n  x\n  {% endraw %}\n  b", "{% raw %}", "{% raw %}x{% endraw", "{%raw%}x{%endraw%}",
    "{%+ raw %}x{%+ endraw +%}\ny", "{% raw %}{% raw %}{% endraw %}", "{% endraw %}", "{% raw %}a{% endraw %}{{ s }}",
    # if
    "{% if no %}a{% elif no %}b{% elif t %}c{% else %}d{% endif %}", "{% if no %}a{% else %}b{% endif %}", "{% if no %}a{% endif %}",
    "{% if t: %}a{% else: %}b{% endif %}", "{% if %}{% endif %}", "{% if t %}", "{% if t %}{% else %}", "{% endif %}", "{% else %}",
    "{% if t %}{% endfor %}", "{% if t %}a{% else %}b{% elif t %}c{% endif %}", "{% if t endif %}", "{% if t, no %}a{% endif %}",
    "{% if missing %}a{% else %}b{% endif %}", "{% if missing.x %}a{% endif %}", "{% if t %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if no %}{% set x = 1 %}{% endif %}{{ x is defined }}", "{% if no %}{% set s = 1 %}{% endif %}{{ s }}",
    "{% if no %}{{ s|nope }}{% endif %}x", "{% if t %}{{ s|nope }}{% endif %}", "{% if s is nope %}{% endif %}",
    "{% if no %}{% for a in l %}{{ s|nope }}{% endfor %}{% endif %}", "{% if l|select('odd') %}y{% endif %}", "{% if 'a' if t else 'b' %}x{% endif %}",
    # for
    "{% for x in l %}{{ x }}{% endfor %}", "{% for x in l %}{{ x }},{% endfor %}\n", "{% for x in el %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in missing %}{{ x }}{% else %}none{% endfor %}", "{% for x in nil %}{% endfor %}", "{% for x in 5 %}{% endfor %}",
    "{% for c in u %}[{{ c }}]{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in l %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a, in [(1,)] %}{{ a }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "{% for x in l if x > 9 %}{% else %}none{% endfor %}",
    "{% for x in l if x is odd %}{{ loop.last }}{{ loop.revindex }}{% endfor %}", "{% for x in l if t else %}{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}", "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in l %}{{ loop.cycle() }}{% endfor %}",
    "{% for x in [1, 1, 2, 1] %}{{ loop.changed(x) }}{% endfor %}", "{% for x in [1, 1] %}{{ loop.changed(x, 1) }}{% endfor %}", "{% for x in l %}{{ loop }}{% endfor %}",
    "{% for x in l %}{{ loop|length }}{% endfor %}", "{% for x in l %}{{ loop.nope }}{{ loop['index'] }}{% endfor %}", "{% for x in l %}{{ loop.nope.x }}{% endfor %}",
    "{% for x in nested %}{% for y in x %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in nested %}{% set outer = loop %}{% for y in x %}{{ outer.index }}.{{ loop.index }} {% endfor %}{% endfor %}",
    "{{ loop }}", "{{ loop.index }}", "{% for x in l %}{% else %}{{ loop }}{% endfor %}", "{% for x in el %}{% else %}{{ loop is defined }}{% endfor %}",
    "{% for x in l %}{{ x }}{% if x == 1 %}{% break %}{% endif %}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% break %}{% else %}none{% endfor %}", "{% for x in l %}{% for y in l %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}{{ x }}{% endfor %}",
    "{% break %}", "{% continue %}", "{% for x in l %}{% endfor %}{% break %}", "{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for x in l %}{% set y %}a{% break %}{% endset %}{% endfor %}{{ y is defined }}b", "{% for x in l %}[{% filter upper %}a{% if x == 1 %}{% continue %}{% endif %}{% endfilter %}]{% endfor %}",
    "{% for x in l %}{% with y = x %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endwith %}{% endfor %}",
    "{% for x in l %}{{ x }}{% endfor %}{{ x }}", "{% set x = 9 %}{% for x in l %}{{ x }}{% endfor %}{{ x }}", "{% set x = 9 %}{% for y in l %}{% set x = y %}{{ x }}{% endfor %}{{ x }}",
    "{% for y in l %}{{ x }}{% set x = y %}{{ x }};{% endfor %}", "{% set x = 0 %}{% for y in l %}{{ x }}{% set x = y %}{{ x }};{% endfor %}", "{% for y in l %}{% if y == 1 %}{% set x = 5 %}{% endif %}{{ x }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in l if x > ns.n %}{% set ns.n = x %}{{ x }}{% endfor %}", "{% set ns = namespace(n=0) %}{% for x in [1, 2, 3] if ns.n == 0 %}{{ x }}{% if loop.last %}L{% endif %}{% set ns.n = 1 %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in [1, 2, 3] if ns.n < 2 %}{{ loop.length }}{% set ns.n = ns.n + 1 %}{% endfor %}",
    "{% for x in l|map('string') %}{{ loop.length }}{{ loop.last }}{% endfor %}", "{% for x in l|reverse %}{{ x }}{{ loop.revindex }}{% endfor %}", "{% set g = l|select %}{% for x in g %}{{ x }}{% endfor %}{% for x in g %}{{ x }}{% else %}empty{% endfor %}",
    "{% for x in range(3) %}{{ x }}{% endfor %}", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for x in (1, 2) %}{{ x }}{% endfor %}", "{% for x in l[::-1] %}{{ x }}{% endfor %}", "{% for x in l if t %}{{ x }}{% endfor %}",
    "{% for 1 in l %}{% endfor %}", "{% for x.y in l %}{% endfor %}", "{% for x l %}{% endfor %}", "{% for x in %}{% endfor %}", "{% for in l %}{% endfor %}", "{% for x in l %}", "{% for x in l %}{% else %}", "{% endfor %}", "{% for true in l %}{% endfor %}",
    "{% for x in nested recursive %}{{ loop.depth }}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}", "{% for x in l %}{{ loop(l) }}{% endfor %}", "{% for x in l recursive %}{{ loop() }}{% endfor %}",
    "{% for m in messages %}{{ m.role }}: {{ m['content'] }}\n{% endfor %}", "{% for m in messages %}\n  {{ m.role }}\n{% endfor %}\n", "{% for x in l -%}\n  {{ x }}\n{%- endfor %}", "{% for x in l %}{{ i }}{% set i = x %}{% endfor %}{{ i }}",
    # What a generator would fail on fails only when it is walked.
    "{% set x = i|map('upper') %}ok{{ x is defined }}", "{% set x = i|items %}{% if x %}y{% endif %}", "{% set x = ls|map('nope') %}ok", "{% set x = ls|map('nope') %}{{ x|list }}",
    "{% set x = ls|select('nope') %}ok", "{% set x = i|selectattr('a') %}ok{{ x|first }}", "{% set x = ls|batch() %}", "{% set x = ls|unique(nope=1) %}", "{{ (i|unique) is iterable }}", "{{ (ls|map('upper'))|map('lower')|join }}",
    "{% set g = ls|map('upper') %}{{ g|first }}{{ g|list }}{{ g|list }}", "{{ d.keys() == d.copy().keys() }}{{ d.items() == d.copy().items() }}{{ d.values() == d.values() }}", "{{ {d.items(): 1} }}", "{{ l|truncate(6) }}{{ missing|truncate(3) }}", "{{ range(99)|list|truncate(6) }}",
    # set
    "{% set x = 1 %}{{ x }}", "{% set x = 1 %}\n{{ x }}\n", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set (x, y) = [1, 2] %}{{ x }}{{ y }}", "{% set x, y = 1 %}", "{% set x, y = 1, 2, 3 %}", "{% set x = 1, 2 %}{{ x }}",
    "{% set x %}a{{ s }}b{% endset %}{{ x }}|{{ x|length }}", "{% set x %}\n  a\n{% endset %}[{{ x }}]", "{% set x | upper %}a{{ s }}{% endset %}{{ x }}", "{% set x | trim | replace('a', 'b') %} a {% endset %}[{{ x }}]",
    "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}", "{% set x %}{% endset %}{{ x is string }}{{ x|length }}", "{% set x %}<{% endset %}{{ x + '<' }}{{ x is escaped }}", "{% set x, y %}ab{% endset %}{{ x }}{{ y }}",
    "{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns }}", "{% set ns = namespace(a=1, b='x') %}{% set ns.a = ns.a + 1 %}{{ ns }}", "{% set ns.x = 1 %}", "{% set s.x = 1 %}", "{% set d.x = 1 %}", "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set ns = namespace() %}{% set ns.x, y = 1, 2 %}{{ ns.x }}{{ y }}", "{% set ns = namespace() %}{% set ns.x %}a{% endset %}{{ ns.x }}", "{% set ns = namespace() %}{{ ns.nope is defined }}{{ ns.nope }}{{ ns.nope.x }}",
    "{% set ns = namespace(l=[]) %}{% for x in l %}{% set ns.l = ns.l + [x * 2] %}{% endfor %}{{ ns.l }}", "{% set ns = namespace(t='') %}{% for x in ls %}{% set ns.t = ns.t + x %}{% endfor %}{{ ns.t }}|{{ ns.t[1:] }}",
    "{% set a = 'x' %}{% set b = a + 'y' %}{% set c = b + 'z' %}{% set d2 = b + 'w' %}{{ a }}{{ b }}{{ c }}{{ d2 }}", "{% set true = 1 %}", "{% set 'a' = 1 %}", "{% set x %}", "{% set x = %}", "{% set = 1 %}", "{% set x 1 %}", "{% set x = 1 y %}", "{% set messages = messages[1:] %}{{ messages|length }}",
    "{% set s = s ~ '!' %}{{ s }}", "{% set missing2 = missing %}{{ missing2 is defined }}", "{% set range = 5 %}{{ range }}", "{% set x = {} %}{% set y = x.update({'a': 1}) %}", "{% set f = s.upper %}{{ f() }}", "{% set ns2 = namespace(ns=namespace(v=1)) %}{{ ns2.ns.v }}", "{% set ns2 = namespace(ns=namespace(v=1)) %}{% set ns2.ns.v = 2 %}",
    # with, filter, print
    "{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x is defined }}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}", "{% with a = 1, b = a %}{{ b }}{% endwith %}", "{% with s = 'in' %}{{ s }}{% endwith %}{{ s }}", "{% with a, b = (1, 2) %}{{ a }}{% endwith %}", "{% with a %}{% endwith %}",
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aXa{% endfilter %}", "{% filter indent(2, true) %}a\nb{% endfilter %}", "{% filter nope %}{% endfilter %}", "{% filter %}{% endfilter %}", "{% filter trim %}  {% set q2 = 1 %} x {% endfilter %}{{ q2 is defined }}",
    "{% print s %}", "{% print s, i %}", "{% print %}",
    # macro and call
    "{% macro m() %}x{% endmacro %}{{ m() }}{{ m() }}", "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}", "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(7) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}", "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}", "{% macro m() %}{{ kwargs.x }}{% endmacro %}{{ m(x=1) }}", "{% macro m() %}{{ varargs|length }}{% endmacro %}{{ m() }}{{ m(1) }}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "{% macro m() %}{{ s }}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}", "{% set x = 1 %}{% macro m() %}{% set x = 2 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}", "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m() %}\n  x\n{% endmacro %}\n[{{ m() }}]", "{%- macro m() -%}\n  x\n{%- endmacro -%}\n[{{ m() }}]", "{% macro m() %}a{% endmacro %}{{ m }}{{ m.name }}", "{% macro m() %}a{% endmacro %}{{ m()|upper ~ m()|length }}", "{% macro m() %}{{ loop is defined }}{% endmacro %}{{ m() }}",
    "{{ m() }}{% macro m() %}a{% endmacro %}", "{% macro m(a %}{% endmacro %}", "{% macro m %}{% endmacro %}", "{% macro 1() %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m() %}", "{% if t %}{% macro m() %}x{% endmacro %}{% endif %}{{ m() }}", "{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}", "{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{% endfor %}{{ m is defined }}",
    "{% macro m(a=[]) %}{{ a }}{% endmacro %}{{ m() }}{{ m([1]) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ [1, 2]|map('string')|map('upper')|list }}{{ m(a=s|upper) }}", "{% macro m() %}<b>{% endmacro %}{{ m() + '<' }}{{ m() is string }}", "{% macro m(x) %}{{ x.y.z }}{% endmacro %}{{ m({}) }}", "{% macro m(x) %}{{ x.z }}{% endmacro %}{{ m(*[{'z': 1}]) }}{{ m(**{'x': {'z': 2}}) }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}body {{ s }}{% endcall %}", "{% macro m() %}{{ caller(1) }}{{ caller(2) }}{% endmacro %}{% call(x) m() %}<{{ x }}>{% endcall %}", "{% macro m(a) %}{{ a }}{{ caller() }}{% endmacro %}{% call m(5) %}{% set zz = 1 %}b{% endcall %}{{ zz is defined }}", "{% macro m() %}x{% endmacro %}{% call m() %}b{% endcall %}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% call s.upper() %}b{% endcall %}", "{% call s %}b{% endcall %}", "{% call(x, y=2) m() %}{% endcall %}", "{% macro m() %}{{ caller('a') }}{% endmacro %}{% call(x, y=2) m() %}{{ x }}{{ y }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(x) m() %}{% endcall %}", "{% macro outer() %}{% call inner() %}{{ caller() }}{% endcall %}{% endmacro %}{% macro inner() %}({{ caller() }}){% endmacro %}{% call outer() %}X{% endcall %}",
    "{% for x in l %}{% macro m() %}{{ x }}{{ caller() }}{% endmacro %}{% call m() %}{{ loop.index }}{% endcall %}{% endfor %}",
    # generation
    "{% generation %}a{{ s }}{% endgeneration %}", "a\n{% generation %}\n b\n{% endgeneration %}\nc", "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}", "{% for x in l %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}", "{%- generation -%} a {%- endgeneration -%} b", "{% generation %}", "{% endgeneration %}", "{% for x in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    # Errors of syntax, and names.
    "{% nope %}", "{% %}", "{% 1 %}", "{% do x %}", "{% trans %}{% endtrans %}", "{% endset %}", "{{ }}", "{{ s }", "{% if t }}", "{{ s %}", "{{ (s }}", "{{ s) }}", "{{ [s) }}", "{{ 'a }}", "{% if t %}{{ s }{% endif %}", "{{ s }}{{ nope() }}", "{{ 1 }} {{ 1 / 0 }}", "a\nb\n{{ missing.x.y }}", "{{ raise_exception('no') }}", "{% if no %}{{ raise_exception('no') }}{% endif %}ok", "{{ s|default(raise_exception('x')) }}", "{{ messages[0]['role'] ~ raise_exception('Only ' ~ s ~ ' roles') }}",
    "{{ add_generation_prompt }}{{ tools }}{{ documents }}", "{{ tools is defined }}{{ tools is none }}{{ custom is defined }}", "{{ messages[0] }}", "{{ self }}x"[:0] + "x", "{{ true }}{{ True }}{{ TRUE }}", "{{ not }}", "{{ and }}", "{{ a b }}", "{{ s if }}", "{% set x = 1 if %}", "{{ _x }}", "{{ __x }}", "{{ s.__init__ }}", "{{ s['__class__'] }}", "{{ ()|length }}{{ {}|length }}", "{{ s\n|\nupper\n}}", "{{ s # no }}", "{{ s }}{# {{ s }} #}{{ s }}", "{{ 'a'\n'b' }}", "{{ \"a\nb\" }}", "{{ 'a\r\nb' }}", "{{ 1;2 }}",
    "{% set x = [1, 2, 3] %}{% if x[-1] == 3 and x|length == 3 %}ok{% endif %}", "{% if (messages|length) % 2 == 0 %}even{% else %}odd{% endif %}", "{% set has = messages|selectattr('role', 'equalto', 'system')|list|length > 0 %}{{ has }}", "{% if messages[0].role == 'user' and messages[0].content is string and not messages[0].content.startswith('<') %}ok{% endif %}", "{{ (messages|last).content }}{{ (messages|first)['role'] }}", "{{ messages|map(attribute='role')|join('|') }}", "{{ '%s %d' % (s, i) }}", "{{ {'role': 'x'}|tojson }}{{ [{'a': none}]|tojson }}", "{{ ({'a': 1}.items()|list)[0][1] }}", "{{ dict(a=1, **{'b': 2})|tojson }}", "{{ s.split('l', 1)[1] if 'l' in s else s }}", "{{ 'a' in ['a', 'b'] and 'c' not in ['a'] }}", "{{ (i > 5) ~ (i > 50) }}", "{{ 1 if i > 5 else 2 if i > 3 else 3 }}", "{{ [1, 2, 3][1:]|join(',') }}", "{{ 'A' ~ 1 + 2 }}", "{{ 1 + 2 ~ 'A' }}", "{{ 2 * 3 ~ 4 }}", "{{ -1 ~ 'a' }}", "{{ 10 - 2 - 3 }}", "{{ 2 + 3 * 4 ** 2 // 5 % 6 }}", "{{ not 1 == 2 }}", "{{ not s in ls }}", "{{ s | upper == 'HELLO' }}", "{{ s|length > 3 and s|length < 9 }}", "{{ 'x' ~ (s|length + 1) }}", "{{ i|string + 'x' }}", "{{ l|sort|first }}{{ l|max - l|min }}",
]


def split_line(line):
    """The expressions of a line: cut at | that are not filters: those have blanks around them."""
    parts, start, depth, quote, at = [], 0, 0, "", 0
    while at < len(line):
        char = line[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char == "|" and line[at - 1:at] != " " and line[at + 1:at + 2] != " ":
            parts.append(line[start:at])
            start = at + 1
        at += 1
    parts.append(line[start:])
    return parts


def snippets():
    seen = set()
    text = EXPRESSIONS.strip("\n").replace("\\\nb'", "\x01b'")
    for line in text.split("\n"):
        for part in split_line(line.replace("\x01", "\\\n")):
            source = "{{ " + part + " }}"
            if source not in seen:
                seen.add(source)
                yield source
    for source in TEMPLATES:
        if source not in seen:
            seen.add(source)
            yield source

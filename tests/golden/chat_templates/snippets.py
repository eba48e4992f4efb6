"""One construct each, for make_chat_templates.py."""

VARIABLES = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "n": 2}], "text": " Ab cd\n",
             "word": "straße", "numbers": [3, 1, 2], "deep": {"b": 1, "a": {"x": [1.5, None, True]}}, "zero": 0, "empty": [],
             "flag": True, "nothing": None, "emoji": "a😀b", "quote": "it's \"so\"", "pairs": [["k", 1], ["l", 2]]}

SNIPPETS = [
    # literals and operators
    "{{ 1 }} {{ 1.0 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1_000 }} {{ 123456789012345678.0 }} {{ 1e16 }} {{ 0.1 + 0.2 }}",
    "{{ true }} {{ False }} {{ none }} {{ None }} {{ missing }}|", "{{ 'a' 'b' \"c\" }}", "{{ 'x\\n\\t\\'\\\"\\\\ \\x41 \\u00e9 \\U0001F600 \\q' }}",
    "{{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }}",
    "{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ -2 ** 2 }} {{ - 3 + 1 }} {{ +3 }} {{ 1 - 1 - 1 }}", "{{ 'a' + 'b' * 3 }} {{ 2 * 'ab' }}",
    "{{ 1 ~ 'a' ~ none ~ 1.5 ~ true }} {{ 1 + 2 ~ 3 }}", "{{ [1, 'a', none, [2]] }} {{ (1,) }} {{ () }} {{ (1, 2) }} {{ {'a': 1, 'b': {}} }}",
    "{{ {'a': {'b': {}}} }}", "{{ quote }} {{ [quote, \"it's\", 'say \"x\"', 'back\\\\slash', 'new\\nline'] }}", "{{ [word, emoji] }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ none == none }}",
    "{{ 1 if true }} {{ 1 if false }}| {{ 1 if false else 2 }} {{ 1 if 0 else 2 if 0 else 3 }}", "{{ true and 'x' }} {{ 0 or 'y' }} {{ not 1 }} {{ not not '' }}",
    "{{ 1 in numbers }} {{ 9 not in numbers }} {{ 'b' in 'abc' }} {{ 'role' in messages[0] }} {{ not 'a' in 'b' }}", "{{ true + 1 }} {{ true and false or true }}",
    "{{ 'a' if 'x' is defined else 'b' }}", "{{ 1 is number and 2 is string }}", "{{ undefined_thing == none }} {{ missing == other_missing }}", "{{ -numbers[0] }} {{ -numbers|length }}",
    # access
    "{{ messages[0].role }} {{ messages[-1]['content'] }} {{ messages[0].missing }}| {{ messages[5] }}|", "{{ deep.a.x[0] }} {{ deep['a']['x'][1] }} {{ messages.0.role }}",
    "{{ text[0] }}{{ emoji[1] }} {{ emoji[-1] }} {{ emoji[9] }}|", "{{ emoji[1:] }} {{ emoji[::-1] }} {{ emoji[:-1] }} {{ emoji[::2] }} {{ emoji[5:] }}|",
    "{{ numbers[1:] }} {{ numbers[:1] }} {{ numbers[::-1] }} {{ numbers[-2:] }} {{ numbers[2:0:-1] }} {{ numbers[:] }} {{ numbers[1:100] }} {{ numbers[-100:2] }}",
    "{{ (1, 2, 3)[1:] }} {{ [][0] }}|", "{{ nothing.x }}| {{ zero.x }}| {{ text.x }}| {{ text['x'] }}|", "{{ missing.x }}", "{{ missing['x'] }}", "{{ missing[1:] }}",
    "{% for k, v in deep.items() %}{{ k }}={{ v }};{% endfor %}", "{{ deep.keys()|list }} {{ deep.values()|list }}", "{{ deep.get('b') }} {{ deep.get('z') }} {{ deep.get('z', 5) }}",
    "{{ 'abc'['upper']() }}", "{{ deep[nothing] }}|", "{{ numbers['a'] }}|", "{{ numbers[true] }}",
    # string methods
    "[{{ text.strip() }}] [{{ text.lstrip() }}] [{{ text.rstrip() }}] [{{ 'xxaxx'.strip('x') }}] [{{ 'abcba'.strip('ab') }}] [{{ '\\u3000\\xa0a\\u2003'.strip() }}]",
    "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.split(maxsplit=1) }} {{ ''.split(',') }} {{ ''.split() }}",
    "{{ 'a-b-c'.rsplit('-', 1) }} {{ 'a\\nb\\r\\nc\\n'.splitlines() }}", "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abc'.startswith('b') }}",
    "{{ 'abcabc'.replace('b', 'XX') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '-') }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }} {{ emoji.find('b') }} {{ 'abcb'.rfind('b') }}",
    "{{ 'aBc dEf'.upper() }} {{ 'aBc'.lower() }} {{ 'aBc dEf-gh it\\'s'.title() }} {{ 'aBC'.capitalize() }}", "{{ ', '.join(['a', 'b']) }} {{ 'banana'.count('an') }}",
    "{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removeprefix('x') }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ ' '.isspace() }}", "{{ ', '.join([1]) }}", "{{ 'a'.split('') }}",
    "{{ numbers.index(1) }} {{ numbers.count(3) }} {{ 'abc'.index('c') }}", "{{ numbers.index(9) }}",
    # filters
    "{{ numbers|length }} {{ emoji|length }} {{ deep|count }} {{ missing|length }} {{ ''|length }}", "{{ nothing|length }}", "{{ 5|length }}", "[{{ text|trim }}] [{{ nothing|trim }}] [{{ 'xax'|trim('x') }}] [{{ 5|trim }}]",
    "{{ missing|default('d') }} {{ nothing|default('d') }} {{ nothing|default('d', true) }} {{ ''|d('e', boolean=true) }} {{ missing|default }}|", "{{ numbers|join }} {{ numbers|join('-') }} {{ messages|join(',', attribute='role') }} {{ 'abc'|join('.') }} {{ missing|join }}|",
    "{{ numbers|first }} {{ numbers|last }} {{ empty|first }}| {{ 'abc'|first }} {{ 'abc'|last }} {{ deep|first }}", "{{ 'abc'|list }} {{ deep|list }} {{ missing|list }}", "{{ 'abc'|reverse }} {{ numbers|reverse|list }}",
    "{{ 'a b'|replace('a', 'c') }} {{ 5|replace('5', '6') }} {{ 'aaa'|replace('a', 'b', 1) }}", "{{ 'aBc'|upper }} {{ 'aBc'|lower }} {{ 'aBc dEF'|capitalize }} {{ 'aBc dEf-gh (ij) it\\'s'|title }}", "{{ 1|string + 'a' }} {{ none|string }} {{ 1.50|string }}",
    "{{ '12'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '3.9'|int }} {{ 3.9|int }} {{ -3.9|int }} {{ true|int }} {{ ' 5 '|int }} {{ none|int(3) }}", "{{ '1.5'|float }} {{ 'x'|float }} {{ 'x'|float(2.5) }} {{ 3|float }}", "{{ -3|abs }} {{ -3.5|abs }}", "{{ deep|items|list }} {{ missing|items|list }}", "{{ 'x'|items|list }}",
    "{{ deep|dictsort }} {{ deep|dictsort(reverse=true) }} {{ {'a': 2, 'B': 1}|dictsort(by='value') }} {{ {'b': 2, 'A': 1}|dictsort(true) }}", "{{ numbers|sort }} {{ numbers|sort(reverse=true) }} {{ ['b', 'A', 'c']|sort }} {{ ['b', 'A', 'c']|sort(case_sensitive=true) }} {{ messages|sort(attribute='content')|map(attribute='content')|list }}",
    "{{ ['a', 'A', 'b']|unique|list }} {{ [1, 2, 1]|unique|list }} {{ ['a', 'A']|unique(true)|list }}", "{{ messages|map(attribute='role')|list }} {{ messages|map(attribute='n', default='-')|list }} {{ ['a', 'b']|map('upper')|list }} {{ ['a']|map('replace', 'a', 'x')|list }} {{ pairs|map(attribute=0)|list }} {{ [deep]|map(attribute='a.x.0')|list }}",
    "{{ numbers|select('odd')|list }} {{ numbers|reject('odd')|list }} {{ numbers|select('gt', 1)|list }} {{ [0, 1, '']|select|list }} {{ [0, 1]|reject|list }}", "{{ messages|selectattr('role', 'equalto', 'user')|list }} {{ messages|selectattr('n', 'defined')|list|length }} {{ messages|rejectattr('role', '==', 'user')|list|length }} {{ messages|selectattr('n')|list|length }} {{ messages|selectattr('role', 'in', ['user'])|list|length }}",
    "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(1, blank=true) }}|{{ 'a\\nb'|indent('> ') }}", "{{ numbers|sum }} {{ messages|sum(attribute='n', start=1) if false else '' }} {{ [1.5, 2]|sum }} {{ []|sum }} {{ numbers|max }} {{ numbers|min }} {{ ['b', 'A']|min }} {{ []|max }}|", "{{ 'x'|safe }} {{ '<b>'|string }}",
    "{{ deep|tojson }} {{ quote|tojson }} {{ word|tojson }} {{ word|tojson(ensure_ascii=true) }} {{ emoji|tojson(true) }} {{ '</script>&'|tojson }} {{ '\\x01\\n\\t\\u007f\\u2028'|tojson }}", "{{ deep|tojson(indent=2) }}", "{{ [1, {'b': [], 'a': {}}]|tojson(indent=4, sort_keys=true) }}", "{{ {'b': 1, 'a': 2}|tojson(separators=(',', ':')) }} {{ 1e100|tojson }} {{ 1.0|tojson }}", "{{ missing|tojson }}", "{{ numbers|tojson|length }}", "{{ (numbers|length)|string|length }}",
    # tests
    "{{ text is defined }} {{ missing is defined }} {{ missing is undefined }} {{ nothing is none }} {{ missing is none }} {{ text is string }} {{ deep is mapping }} {{ numbers is sequence }} {{ 'a' is sequence }} {{ nothing is sequence }} {{ missing is sequence }} {{ missing is iterable }} {{ nothing is iterable }}",
    "{{ 1 is number }} {{ true is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ none is false }}", "{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }}", "{{ 1 is eq 1 }} {{ 1 is ne(2) }} {{ 1 is lt 2 }} {{ 2 is ge 2 }} {{ 1 is in [1] }} {{ 'a' is not in 'b' }} {{ none is sameas none }} {{ 'a' is sameas 'b' }}",
    "{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ '1' is lower }}", "{{ text is not defined }} {{ not text is defined }} {{ not (text is defined) }} {{ range is callable }} {{ 1 is callable }}", "{{ deep.items is callable }}",
    # statements
    "{% if zero %}a{% elif empty %}b{% elif flag %}c{% else %}d{% endif %}", "{% for n in numbers %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }};{% endfor %}",
    "{% for n in numbers %}{{ loop.previtem }}<{{ n }}>{{ loop.nextitem }} {% endfor %}", "{% for n in numbers if n > 1 %}{{ n }}{{ loop.length }}{% else %}none{% endfor %}", "{% for n in empty %}x{% else %}none{% endfor %}", "{% for n in missing %}x{% else %}none{% endfor %}", "{% for c in 'a😀' %}[{{ c }}]{% endfor %}", "{% for k in deep %}{{ k }}{% endfor %}",
    "{% for a, b in pairs %}{{ a }}{{ b }}{% endfor %}", "{% for n in nothing %}x{% endfor %}", "{% for n in 5 %}x{% endfor %}", "{% for n in numbers %}{{ loop.cycle('a', 'b') }}{{ loop.changed(n > 2) }}{% endfor %}", "{% for i in range(3) %}{% for j in range(i) %}{{ loop.depth }}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% set x = 1 %}{% for i in range(3) %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(x=1, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|{{ ns['x'] }}",
    "{% set x %}a{{ 1 + 1 }}b{% endset %}[{{ x }}]", "{% set x | trim | upper %}  ab {% endset %}[{{ x }}]", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set t = 1, 2 %}{{ t }}", "{% set a, b = [1] %}", "{% if true %}{% set y = 2 %}{% endif %}{{ y }}", "{% set ns = {} %}{% set ns.x = 1 %}", "{% set d = dict(a=1, b=2) %}{{ d.a }}{{ d }} {{ dict({'x': 1}, y=2) }}",
    "{% macro m(a, b=2, c=none) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c='x') }} {{ m() }} {{ m(b=1, a=0)|upper }}", "{% macro m(a) %}x{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}x{% endmacro %}{{ m(z=2) }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% set g = 1 %}{% macro m() %}{{ g }}{% endmacro %}{% set g = 2 %}{{ m() }}", "{% macro m(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{% set x = 5 %}{{ m(1) }}{{ x }}", "{% macro m(l, extra=l|length) %}{{ extra }}{% endmacro %}{{ m([1, 2]) }}",
    "{{ raise_exception('stop: ' ~ 1) }}", "{{ strftime_now('%Y-%m-%d %H:%M:%S %B %b %A %a %j %d %y %%') }}", "{{ range(5)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }}", "{{ range(1000000)|length }}", "{% generation %}x{{ 1 }}{% endgeneration %}y",
    "{{ 1 // 0 }}", "{{ 'a' + 1 }}", "{{ 1 < 'a' }}", "{{ none + 1 }}", "{{ [1] + [2] }} {{ [1] + (2,) }}", "{{ missing + 'a' }}", "{{ missing ~ 'a' }}", "{{ 'x' in none }}", "{{ missing < 1 }}", "{{ 'a' in missing }}", "{{ 5() }}", "{{ (1).x }}|",
    # white space
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}\n  b\n  {% endif %}\n  c\n\n", "a  {%- if true -%}  b  {%- endif -%}  c", "a \n {{- 1 -}} \n b", "a\n  {{ 1 }}\n  b", "a\n  {%+ if true %}b{% endif +%}\nc", "  {# c #}\nx {# d #} y\n{#- e -#}\n z", "{% if true %}\n\n\nx{% endif %}", "x {% if true %} y {% endif %} z\n  {% if true %}w{% endif %}",
    "a\r\nb\rc\n", "\n\na", "{{ 'a\nb' }}", "a{# {{ x }} {% y %} #}b", "{ % } {a} {{ '{{' }} {{ '%}' }} }}", "{%- set x = 1 -%}\n\n  {{ x }}", "{{ {'a': 1}['a'] }}{{ {} }}", "  {%- if true %}\n    x\n  {%- endif %}\n", "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n", "{% for i in [1, 2] -%}\n  {{ i }}\n{%- endfor %}", "\t{% if true %}\t\n\t{% endif %}", "a {#- x #} b", "{{-1}}{{+1}}", "x\n\t {# c #}\n\ty", "{#-#}a{#--#} b", "{% if true %}a{% endif %}   \n   {% if true %}b{% endif %}",
]

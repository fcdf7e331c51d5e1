"""Responses that try to be accepted by a check that refuses them, and checks that write verdicts themselves."""

from __future__ import annotations

from attacks.cases import Attack, _attacks

REFUSES = """
def check(prompt, response, reference):
    exec(response, {})
    return False, 'refused'
"""
COMPARES = """
def check(prompt, response, reference):
    space = {}
    exec(response, space)
    return space['f'](2) == 4, 'another value'
"""
TESTS = """
def check(prompt, response, reference):
    space = {}
    exec(response, space)
    exec(reference, space)
    return True
"""
APPENDS = """
def check(prompt, response, reference):
    exec(response + '\\n' + reference, {})
    return True
"""
EXTRACTS = """
def check(prompt, response, reference):
    code = response.replace('\\t', '    ').strip()
    exec(compile(f'import math\\n{code}\\n{reference}\\nassert f(4) == 16', 'answer', 'exec'), {})
    return True
"""
CATCHES = """
def check(prompt, response, reference):
    try:
        exec(response, {})
    except Exception:
        return False, 'raised'
    return False, 'not good enough'
"""
EVALUATES = """
def check(prompt, response, reference):
    return eval(response) == 4
"""
REFERENCE = "assert f(2) == 4\nassert f(3) == 9"

LINES = """
import json, os
lines = [{'outcome': 'accepted'}, {'outcome': 'accepted', 'reason': ''},
         {'outcome': 'accepted', 'reason': '', 'answer': None}, True,
         [True, ''], ['done', True, None, ''], ['done', None, ['dict', [['f', True]]], ''], {'pid': 1}]
text = ''.join(json.dumps(line) + '\\n' for line in lines).encode()
"""

BLIND = _attacks("forge", f"""
## lines to every descriptor
{LINES}
for number in range(256):
    try:
        os.write(number, text)
    except OSError:
        pass
raise ValueError('wrong')
## lines to every descriptor, then the end
{LINES}
for number in range(256):
    try:
        os.write(number, b'\\n' + text)
    except OSError:
        pass
os._exit(0)
## lines to every descriptor after a copy
{LINES}
for number in range(3, 64):
    try:
        os.write(os.dup(number), text)
        os.close(number)
    except OSError:
        pass
## lines in proc
{LINES}
for number in range(64):
    try:
        open('/proc/self/fd/%d' % number, 'wb').write(text)
    except OSError:
        pass
raise ValueError('wrong')
## lines to the parent's descriptors
{LINES}
for number in range(64):
    try:
        open('/proc/%d/fd/%d' % (os.getppid(), number), 'wb').write(text)
    except OSError:
        pass
raise ValueError('wrong')
## print
{LINES}
print(text.decode())
import sys
sys.__stdout__ and sys.__stdout__.write(text.decode())
os.write(1, text)
raise ValueError('wrong')
## lines by C
{LINES}
import ctypes
for number in range(64):
    ctypes.CDLL(None).write(number, text, len(text))
raise ValueError('wrong')
## lines later, from a thread
{LINES}
import threading, time
def work():
    while True:
        for number in range(3, 64):
            try:
                os.write(number, text)
            except OSError:
                pass
        time.sleep(0.001)
threading.Thread(target=work, daemon=True).start()
raise ValueError('wrong')
## lines at exit
{LINES}
import atexit
atexit.register(lambda: [os.write(n, text) for n in range(3, 8)])
raise ValueError('wrong')
## exit 0
import os
os._exit(0)
## sys.exit
import sys
sys.exit(0)
## SystemExit of a kind
class Done(SystemExit):
    code = 0
raise Done
## interrupt
raise KeyboardInterrupt
## generator's end
raise GeneratorExit
## abort
import os
os.abort()
## segmentation fault
import ctypes
ctypes.string_at(1)
## a very long name
raise type('A' * 1_000_000, (Exception,), {{}})('x' * 1_000_000)
## an exception that lies about itself
class Liar(Exception):
    def __str__(self):
        raise SystemExit(0)
    def __repr__(self):
        return 'accepted'
raise Liar
## an exception named as a verdict
raise type('accepted', (Exception,), {{}})('{{"outcome": "accepted"}}')
## control bytes
raise ValueError('\\x1b]0;owned\\x07\\x1b[2J\\r\\n\\x00\\u202e')
## lone surrogates
raise ValueError('\\ud800' * 100)
## output without end
while True:
    print('x' * 1_000_000)
## output before the end
print('x' * 50_000_000)
raise ValueError('wrong')
""")  # fmt: skip

REACHING = _attacks("reach", """
## the harness's own reply
import os, sys
frame = sys._getframe()
while frame:
    if 'mark' in frame.f_locals:
        os.write(frame.f_locals['channel'], frame.f_locals['mark'] + b'["done", null, ["dict", []], ""]\\n')
    frame = frame.f_back
os._exit(0)
## the harness's own reply, with a function that is none
import os, sys
frame = sys._getframe()
while frame:
    if 'mark' in frame.f_locals:
        text = b'["done", true, ["dict", [["f", ["object", 0]], ["__builtins__", ["dict", []]]]], ""]\\n'
        for _ in range(9):
            os.write(frame.f_locals['channel'], frame.f_locals['mark'] + text)
    frame = frame.f_back
os._exit(0)
## swallow the tests
f = lambda x: 5
text = '''
## swallow the tests by a line that goes on
f = lambda x: 5
if 0: \\
## swallow the tests in a block
f = lambda x: 5
def g():
## hide the tests' names
f = lambda x: 5
len = abs = bool = int = isinstance = check = assert_ = lambda *a: True
AssertionError = Exception = ValueError
## leave before the tests
import sys
sys.exit
raise SystemExit(0)
## builtins
import builtins
builtins.bool = builtins.isinstance = lambda *a: True
builtins.AssertionError = type('Nothing', (BaseException,), {})
builtins.exec = builtins.eval = lambda *a: None
f = lambda x: 5
## frames
import sys
frame = sys._getframe()
while frame is not None:
    for name in list(frame.f_locals):
        if callable(frame.f_locals[name]):
            frame.f_globals[name] = lambda *a, **k: True
    frame.f_globals['check'] = lambda *a: True
    frame.f_globals['_run'] = frame.f_globals['dumps'] = lambda *a: {'outcome': 'accepted', 'reason': ''}
    frame = frame.f_back
f = lambda x: 5
## garbage collector
import gc
for each in gc.get_objects():
    if isinstance(each, dict) and ('outcome' in each or 'check' in each):
        each.update(outcome='accepted', check=lambda *a: True)
f = lambda x: 5
## trace that skips lines
import sys
def trace(frame, event, arg):
    return trace
sys.settrace(trace)
frame = sys._getframe()
while frame:
    frame.f_trace = trace
    frame = frame.f_back
f = lambda x: 5
## modules of the harness
import sys
for name, module in list(sys.modules.items()):
    for verb in ('_run', '_tell', 'check', 'encode', 'dumps'):
        if hasattr(module, verb):
            setattr(module, verb, lambda *a, **k: b'{"outcome": "accepted", "reason": ""}')
f = lambda x: 5
## json and os
import json, os
json.dumps = lambda *a, **k: '{"outcome": "accepted", "reason": ""}'
os.write = lambda *a: len(a[1])
f = lambda x: 5
## equal to everything
class Same:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 4
    def __getattr__(self, name): return self
    def __call__(self, *a): return self
f = lambda x: Same()
## an int that equals everything
class Same(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __int__(self): return 5
    def __index__(self): return 5
    __hash__ = int.__hash__
f = lambda x: Same(5)
## a str that equals everything
class Same(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = str.__hash__
f = lambda x: Same('5')
## a class of a lying class
class Same:
    __class__ = int
    def __eq__(self, other): return True
f = lambda x: Same()
## reduce
class Same:
    def __reduce__(self):
        return (eval, ('4',))
    def __eq__(self, other): return True
f = lambda x: Same()
## read the reference
import gc, sys
found = [each for each in gc.get_objects() if isinstance(each, dict) and 'reference' in each]
texts = [each for each in gc.get_objects() if isinstance(each, str) and 'assert f(' in each]
f = lambda x: (4 if x == 2 else 9) if found or texts else 5
## read the reference in memory
import ctypes, sys
def f(x):
    text = b''
    try:
        for line in open('/proc/self/maps'):
            text += line.encode()
    except OSError:
        pass
    return (4 if x == 2 else 9) if b'assert' in text else 5
## the frame of the caller
import sys
def f(x):
    frame = sys._getframe()
    while frame is not None:
        if 'reference' in frame.f_locals or 'response' in frame.f_locals:
            return 4 if x == 2 else 9
        frame = frame.f_back
    return 5
## change the arguments
def f(x):
    import gc
    for each in gc.get_objects():
        if isinstance(each, list):
            each.clear()
    return 5
## a generator of itself
def f(x):
    yield 4
## recursion of data
x = []
x.append(x)
f = lambda _: x
## a number of a million digits
f = lambda x: 10 ** 1_000_000
## a large value
f = lambda x: 'x' * 30_000_000
## names of the check
check = reference = response = True
__builtins__ = {'exec': None}
f = lambda x: 5
## a name that is none
globals()['a b'] = 1
globals()[7] = 1
f = lambda x: 5
""")  # fmt: skip

OWN = _attacks("own", f"""
## lines to every descriptor
def check(prompt, response, reference):
    {LINES.strip().replace(chr(10), chr(10) + '    ')}
    for number in range(256):
        try:
            os.write(number, text)
        except OSError:
            pass
    return False
## lines, then the end
def check(prompt, response, reference):
    {LINES.strip().replace(chr(10), chr(10) + '    ')}
    for number in range(256):
        try:
            os.write(number, text)
        except OSError:
            pass
    os._exit(0)
## at import
{LINES}
for number in range(256):
    try:
        os.write(number, text)
    except OSError:
        pass
def check(prompt, response, reference):
    return False
## no bool
def check(prompt, response, reference):
    return 1
## a kind of bool
def check(prompt, response, reference):
    return {{'outcome': 'accepted', 'reason': ''}}
## many reasons
def check(prompt, response, reference):
    return False, 'x' * 200_000_000
## a reason of control bytes
def check(prompt, response, reference):
    return False, '\\x1b[2J\\x00"}}\\n{{"outcome": "accepted"}}'
## a reason that is a program
class Reason:
    def __str__(self):
        return '\\n{{"outcome": "accepted", "reason": ""}}\\n'
def check(prompt, response, reference):
    return False, Reason()
## pickle
import pickle
def check(prompt, response, reference):
    return pickle.loads(b'cbuiltins\\nbool\\n(I01\\ntR.') and False
## flood
def check(prompt, response, reference):
    import os
    while True:
        for number in range(3, 64):
            try:
                os.write(number, b'x' * 65536)
            except OSError:
                pass
## flood of lines
def check(prompt, response, reference):
    {LINES.strip().replace(chr(10), chr(10) + '    ')}
    while True:
        for number in range(3, 64):
            try:
                os.write(number, text)
            except OSError:
                pass
## deep JSON
def check(prompt, response, reference):
    import os
    for number in range(3, 64):
        try:
            os.write(number, b'[' * 200_000 + b'\\n')
        except OSError:
            pass
    return False
""")  # fmt: skip

OTHER_WAYS = _attacks("way", """
## the plain exec
import builtins
def check(prompt, response, reference):
    builtins.exec(response, {})
    return False
## runpy
import runpy
def check(prompt, response, reference):
    open('answer.py', 'w').write(response)
    runpy.run_path('answer.py')
    return False
## import
import sys
def check(prompt, response, reference):
    open('answer.py', 'w').write(response)
    sys.path.insert(0, '.')
    import answer
    return False
## interpreter
import code
def check(prompt, response, reference):
    code.InteractiveInterpreter().runcode(compile(response, 'a', 'exec'))
    return False
## compiled
def check(prompt, response, reference):
    exec(compile(response, 'answer', 'exec'), {})
    return False
## tests behind the response
def check(prompt, response, reference):
    exec(response + '\\n' + 'raise ValueError()', {})
    return True
""")  # fmt: skip

CHECKS = {
    "refuses": REFUSES,
    "compares": COMPARES,
    "tests": TESTS,
    "appends": APPENDS,
    "extracts": EXTRACTS,
    "catches": CATCHES,
    "evaluates": EVALUATES,
}


def forgeries() -> list[tuple[str, str, str]]:
    """(name, code of a check, response): none may be accepted."""
    found = [(f"{attack.name}, {name}", code, attack.code) for attack in BLIND for name, code in CHECKS.items()]
    reached = {name: CHECKS[name] for name in CHECKS if name != "evaluates"}
    found += [(f"{attack.name}, {name}", code, attack.code) for attack in REACHING for name, code in reached.items()]
    found += [(attack.name, attack.code, "x = 1") for attack in OWN]
    found += [(f"{way.name}, {attack.name}", way.code, attack.code) for way in OTHER_WAYS for attack in BLIND[:4]]
    return found


__all__ = ["BLIND", "CHECKS", "OTHER_WAYS", "OWN", "REACHING", "REFERENCE", "Attack", "forgeries"]

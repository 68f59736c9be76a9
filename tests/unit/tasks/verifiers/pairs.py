"""Answer pairs for the maths verifier, with verdicts that no grader made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.tasks.verifiers.math import Math

RIGHT = r"""
x^2+y^2 | x^2+y^2
x^{2}+y^{2}=4 | x^2+y^2=4
x^4+4x^3+6x^2 | 6x^2+4x^3+x^4
2^3\cdot 3^2 | 72
2^{2024} | 4^{1012}
2^{2^{100}} | 2^{2^{100}}
(2n)!! | (2n)!!
\frac{1}{2} | 0.5
\frac{1}{2} | \dfrac{1}{2}
\frac12 | 1/2
\frac{3}{4} | .75
-\frac{1}{2} | \frac{-1}{2}
3 \frac{1}{2} | 3.5
1/3 | \frac{2}{6}
50\% | 50%
50\% | 0.5
10 | 10 cm
10 | 10\text{ cm}
\$5 | 5
1,000 | 1000
12345 | 12{,}345
90^\circ | 90
90° | 90
90 | 90°
0.0000001 | 10^{-7}
5 | x=5
\{1,2\} | \{2,1\}
1,2 | 2,1
(1,2) | (1, 2)
(1,2) | \left(1,2\right)
[0,1) | [0, 1)
(0,1) \cup (2,3) | (2,3)\cup(0,1)
(-\infty, 2] | (-\infty,2]
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{bmatrix}1&2\\3&4\end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\sqrt{8} | 2\sqrt{2}
\sqrt8 | 2\sqrt2
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
\pi | \pi
\frac{\pi}{2} | \pi/2
2\pi | 2 \cdot \pi
\text{east} | east
\text{Evelyn} | \text{Evelyn}
\text{Evelyn} | Evelyn
\text{(B)} | B
x^2+2x+1 | (x+1)^2
x+y | y+x
2x | x+x
2^{10} | 1024
+7 | 7
6 | \boxed{6}
"""
WRONG = r"""
0.0000001 | 0.0000002
x^2+y^2 | x^2-y^2
2^{2024} | 2^{2023}
2^{2^{100}} | 2^{2^{99}}
-3 | 3
(1,2) | (2,1)
[0,1) | (0,1)
[0,1] | [0,1)
(0,1) \cup (2,3) | (0,1)
\pi | 3.14
\pi | 2\pi
\frac{1}{2} | \frac{1}{3}
0.333 | 1/3
\{1,2\} | \{1,3\}
\{1,2\} | \{1,2,3\}
1,2 | 1
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&2\\4&3\end{pmatrix}
\sqrt{2} | 2
\sqrt{2} | 1.41
\text{east} | west
\text{Evelyn} | Eve
\text{(B)} | C
x^2+2x+1 | x^2+1
x+y | x-y
2^{10} | 1023
1,000 | 1
12345 | 12354
5 | x=6
5 |
5 | ?
5 | \text{five}
(-\infty, 2] | (-\infty,2)
"""


def pairs() -> Iterator[tuple[str, str, bool]]:
    """About 500: those above, and numbers in several spellings beside their near misses."""
    for lines, right in ((RIGHT, True), (WRONG, False)):
        for line in lines.strip().split("\n"):
            answer, _, response = line.partition("|")
            yield answer.strip(), response.strip(), right
    for a in range(2, 22):
        b = a + 7
        yield f"\\frac{{{a}}}{{{b}}}", f"\\frac{{{2 * a}}}{{{2 * b}}}", True
        yield f"\\frac{{{a}}}{{{b}}}", f"{a}/{b}", True
        yield f"\\frac{{{a}}}{{{b}}}", f"\\frac{{{b}}}{{{a}}}", False
        yield f"\\frac{{{a}}}{{{b}}}", f"-\\frac{{{a}}}{{{b}}}", False
        yield f"{a}.25", f"\\frac{{{4 * a + 1}}}{{4}}", True
        yield f"{a}.25", f"{a}.52", False
        yield str(-a), f"-{a}.0", True
        yield str(-a), str(a), False
        yield f"{a * 1013}", f"{a * 1013:,}", True
        yield f"{a * 1013}", str(a * 1013 + 1), False
        yield f"{a}\\sqrt{{3}}", f"\\sqrt{{{3 * a * a}}}", True
        yield f"{a}\\sqrt{{3}}", f"{a}\\sqrt{{5}}", False
        yield f"{a}\\pi", f"\\pi \\cdot {a}", True
        yield f"{a}\\pi", str(a), False
        yield f"({a}, {b})", f"({a},{b})", True
        yield f"({a}, {b})", f"({b},{a})", False
        yield f"\\{{{a}, {b}\\}}", f"\\{{{b}, {a}\\}}", True
        yield f"[{a}, {b}]", f"[{a}, {b + 1}]", False
        yield f"{a}x + {b}", f"{b} + {a}x", True
        yield f"{a}x + {b}", f"{b}x + {a}", False
        yield f"{a}\\%", f"{a}%", True
        yield str(a), f"{a}\\text{{ units}}", True
        yield str(a * a), f"{a}^2", True
        yield str(a), f"{a}.001", False


def misjudged(task: Math, table: Sequence[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """The pairs of which the task says something else than the table."""
    found = []
    for answer, stated, right in table:
        prompt = Prompt(prompt_id="p", text="how much?", answer=answer, task="math")
        _, status = task.verify(prompt, f"So it is \\boxed{{{stated}}}.")
        if (status is RolloutStatus.RIGHT) != right:
            found.append((answer, stated, right))
    return found

"""When an answer is right: numbers, formulas, choices, MathVerse's rules, the originals' graders, and judges' verdicts."""

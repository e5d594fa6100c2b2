"""When an answer is right: the rules of PGPS9K and MathVerse, the original graders, a judge."""

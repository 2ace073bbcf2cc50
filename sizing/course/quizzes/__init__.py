"""The questions of `quiz`, one module per lesson, each a tuple named `QUESTIONS`.

A wrong choice has its own sentence: what one thinks who takes it. Two questions per lesson; from
lesson 02 on one of them goes back two lessons.
"""

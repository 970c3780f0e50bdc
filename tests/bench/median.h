/* median.h - of a benchmark's rounds */
#ifndef MEDIAN_H
#define MEDIAN_H

#include <stdlib.h>

static int median_by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts v. */
static inline double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof(*v), median_by_value);
	return v[n / 2];
}

#endif

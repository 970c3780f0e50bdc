# netbuf
